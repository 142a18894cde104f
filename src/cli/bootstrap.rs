//! What a person needs on a first start: a partner, a key, a number; and on every start: where the server is.
//!
//! The default key is shown when it is made. It is also kept readable in the data folder, for its owner only, so that
//! `serve --show-key` can show it again and `haversack send` finds it: standard output ends up in logs, which others read.
//! Keys of other partners are kept nowhere but hashed.

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

/// The partner made on a first start.
const DEFAULT_PARTNER: &str = "default";
/// Its number: one of those reserved for fiction (NANP 555-0100 to 555-0199).
const DEFAULT_NUMBER: &str = "+12025550123";
const FILE: &str = "local.toml";

/// What clients on this machine need; `local.toml` in the data folder.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct LocalCredentials {
    /// What the SDKs call the base URL.
    pub(super) base_url: String,
    /// The default partner's key.
    pub(super) api_key: String,
    /// The default partner's number.
    pub(super) phone_number: String,
}

impl LocalCredentials {
    /// Reads it; `None` if no server was ever started on the folder.
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

    /// Writes it in one step, readable by its owner only, as temporary files are.
    fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
        file.write_all(toml::to_string(self)?.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(data_dir.join(FILE))?;
        Ok(())
    }
}

/// Makes the default partner if there is no partner yet, and writes down what clients on this machine need. Returns
/// what to print; the key is part of it if it was made now, or if `show_key` asks for it.
pub(super) async fn prepare(data_dir: &Path, app: &App, show_key: bool) -> anyhow::Result<String> {
    let base_url = app.public_url().join("/api/partner");
    let known = LocalCredentials::read(data_dir)?;
    let is_new = known.is_none();
    let local = match known {
        Some(local) => Some(LocalCredentials { base_url, ..local }),
        None if partners::list(app.db()).await?.is_empty() => {
            let number =
                PhoneNumber::parse(DEFAULT_NUMBER).context("the default number is E.164")?;
            let local = LocalCredentials {
                base_url,
                api_key: api_key::generate(),
                phone_number: number.to_string(),
            };
            // Written first: a crash in between leaves a key that no partner has, and the next start makes it one.
            local.write(data_dir)?;
            Some(local)
        }
        None => None,
    };
    let plain = format!("Haversack serves {}", app.public_url().join("/"));
    let Some(local) = local else { return Ok(plain) };
    let is_made_now = app.partners().authenticate(&local.api_key).await?.is_none();
    if is_made_now {
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
                // Another server on the same database made it, and has its key.
                let path = data_dir.join(FILE);
                if is_new {
                    std::fs::remove_file(&path)
                        .with_context(|| format!("cannot remove {}", path.display()))?;
                } else {
                    tracing::warn!(file = %path.display(), "its key is none of this database's; it is not used");
                }
                return Ok(plain);
            }
            Err(error) => return Err(error.into()),
        }
    }
    local.write(data_dir)?;
    Ok(if is_made_now || show_key {
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
