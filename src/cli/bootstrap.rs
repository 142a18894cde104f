//! Creates, on the first start, a default partner with an API key and a phone number, and prints
//! how to use them.
//!
//! The API key is printed only once, because standard output ends up in logs. `local.toml` in the
//! data folder keeps it in plain text, readable by its owner only, for `serve --show-key` and
//! `haversack send`. For all other API keys, only a hash is stored.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Clock;
use crate::domain::api_key;
use crate::domain::handle::PhoneNumber;
use crate::partners::{self, AddError};

/// Name of the partner that the first start creates.
const DEFAULT_PARTNER: &str = "default";
/// Phone number of the default partner, from the range reserved for fiction (NANP 555-0100 to
/// 555-0199).
const DEFAULT_NUMBER: &str = "+12025550123";
const FILE: &str = "local.toml";

/// Credentials for clients on this machine, as stored in `local.toml` in the data folder.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LocalCredentials {
    /// Base URL of the API, as the SDKs expect it.
    pub(super) base_url: String,
    pub(super) api_key: String,
    pub(super) phone_number: String,
}

impl LocalCredentials {
    /// Reads `local.toml`. Returns `None` if no server was ever started on the data folder.
    pub(super) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                Ok(Some(toml::from_str(&text).with_context(|| {
                    format!("cannot read {}", path.display())
                })?))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Replaces `local.toml` atomically. The temporary file is readable by its owner only.
    fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(toml::to_string(self)?.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(data_dir.join(FILE))?;
        Ok(())
    }
}

/// Creates the default partner if there is no partner yet, and writes the credentials for local
/// clients. Returns the welcome text to print, which contains the API key if the partner is new or
/// `show_key` is set.
pub(super) async fn prepare(data_dir: &Path, app: &App, show_key: bool) -> anyhow::Result<String> {
    let base_url = app.public_url().join("/api/partner");
    let known = LocalCredentials::read(data_dir)?;
    let is_new = known.is_none();
    let local = match known {
        Some(local) => Some(LocalCredentials { base_url, ..local }),
        None if partners::list(app.db()).await?.is_empty() => {
            let number =
                PhoneNumber::parse(DEFAULT_NUMBER).context("the default phone number is valid")?;
            let local = LocalCredentials {
                base_url,
                api_key: api_key::generate(),
                phone_number: number.to_string(),
            };
            // Written before the partner is created: if the server crashes in between, the next
            // start creates the partner with this key.
            local.write(data_dir)?;
            Some(local)
        }
        None => None,
    };
    let plain = format!("Haversack serves {}", app.public_url().join("/"));
    let Some(local) = local else { return Ok(plain) };
    let is_created_now = app.partners().authenticate(&local.api_key).await?.is_none();
    if is_created_now {
        let number = PhoneNumber::parse(&local.phone_number)
            .context("local.toml: phone_number is not E.164")?;
        match partners::add(
            app.db(),
            &Clock::system(),
            DEFAULT_PARTNER.to_owned(),
            &local.api_key,
            vec![number],
        )
        .await
        {
            Ok(_) => {}
            Err(error) if is_taken(&error) => {
                // Another server on the same database created the partner, and holds the API key.
                let path = data_dir.join(FILE);
                if is_new {
                    std::fs::remove_file(&path)
                        .with_context(|| format!("cannot remove {}", path.display()))?;
                } else {
                    tracing::warn!(file = %path.display(), "the API key in the file does not exist in this database");
                }
                return Ok(plain);
            }
            Err(error) => return Err(error.into()),
        }
    }
    local.write(data_dir)?;
    Ok(if is_created_now || show_key {
        with_key(&local, data_dir)
    } else {
        without_key(&local, data_dir)
    })
}

fn is_taken(error: &AddError) -> bool {
    match error {
        AddError::Taken(_) => true,
        AddError::Db(error) => error.is_duplicate(),
    }
}

fn without_key(local: &LocalCredentials, data_dir: &Path) -> String {
    let LocalCredentials {
        base_url,
        phone_number,
        ..
    } = local;
    format!(
        "Haversack is ready.\n\n\
         \x20 API base      {base_url}\n\
         \x20 Phone number  {phone_number}\n\
         \x20 Data          {}\n\n\
         The API key is in {}; haversack serve --show-key shows it.\n",
        data_dir.display(),
        data_dir.join(FILE).display()
    )
}

fn with_key(local: &LocalCredentials, data_dir: &Path) -> String {
    let LocalCredentials {
        base_url,
        api_key,
        phone_number,
    } = local;
    let mut text = String::new();
    let _ = write!(
        text,
        "Haversack is ready.\n\n\
         \x20 API base      {base_url}\n\
         \x20 API key       {api_key}\n\
         \x20 Phone number  {phone_number}\n\
         \x20 Data          {}\n\n\
         Try it:\n\n\
         \x20 curl -sS {base_url}/v3/chats \\\n\
         \x20   -H 'Authorization: Bearer {api_key}' \\\n\
         \x20   -d '{{\"from\":\"{phone_number}\",\"to\":[\"+12025550199\"],\
         \"message\":{{\"parts\":[{{\"type\":\"text\",\"value\":\"Hello\"}}]}}}}'\n",
        data_dir.display()
    );
    text
}
