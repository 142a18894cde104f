//! What a person needs on a first start: a partner, a key, a number; and on every start: where the server is.
//!
//! The default key is also kept readable in the data folder, for its owner only, so that a second start can show it and
//! `haversack send` finds it. Keys of other partners are kept nowhere but hashed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::clock::Clock;
use crate::domain::api_key;
use crate::domain::handle::PhoneNumber;
use crate::service::partners;

/// The partner made on a first start.
const DEFAULT_PARTNER: &str = "default";
/// Its number: one of those reserved for fiction (NANP 555-0100 to 555-0199).
const DEFAULT_NUMBER: &str = "+12025550123";
const FILE: &str = "local.toml";

/// What clients on this machine need; `local.toml` in the data folder.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Local {
    /// What the SDKs call the base URL.
    pub(super) base_url: String,
    /// The default partner's key.
    pub(super) api_key: String,
    /// The default partner's number.
    pub(super) phone_number: String,
}

impl Local {
    /// Reads it; `None` if no server was ever started on the folder.
    pub(super) fn read(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = data_dir.join(FILE);
        match std::fs::read_to_string(&path) {
            Ok(text) => Ok(Some(toml::from_str(&text).with_context(|| format!("cannot read {}", path.display()))?)),
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
/// what to print.
pub(super) async fn prepare(data_dir: &Path, app: &App) -> anyhow::Result<String> {
    let base_url = app.public_url().join("/api/partner");
    let kept = Local::read(data_dir)?;
    let is_new = kept.is_none();
    let local = match kept {
        Some(local) => Some(Local { base_url, ..local }),
        None if partners::list(app.db()).await?.is_empty() => {
            let number = PhoneNumber::parse(DEFAULT_NUMBER).context("the default number is E.164")?;
            let local = Local { base_url, api_key: api_key::generate(), phone_number: number.to_string() };
            // Written first: a crash in between leaves a key that no partner has, and the next start makes it one.
            local.write(data_dir)?;
            Some(local)
        }
        None => None,
    };
    let serves = format!("Haversack serves {}", app.public_url().join("/"));
    let Some(local) = local else { return Ok(serves) };
    if app.service().authenticate(&local.api_key).await?.is_none() {
        let number = PhoneNumber::parse(&local.phone_number).context("local.toml: phone_number is not E.164")?;
        let name = DEFAULT_PARTNER.to_owned();
        match partners::add(app.db(), &Clock::system(), name, &local.api_key, vec![number]).await {
            // Another server that started on this database at the same moment was first, and shows its key.
            Err(partners::AddError::Taken(_)) if app.db().is_shared() => {
                if is_new {
                    std::fs::remove_file(data_dir.join(FILE))?;
                } else {
                    tracing::warn!("local.toml in the data folder holds a key that this database does not know");
                }
                return Ok(serves);
            }
            added => added.map(drop)?,
        }
    }
    local.write(data_dir)?;
    Ok(text(&local, data_dir))
}

fn text(local: &Local, data_dir: &Path) -> String {
    let Local { base_url, api_key, phone_number } = local;
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
