//! Partners: adding them, and finding the one behind an API key.

use std::collections::{HashMap, HashSet};
use std::sync::RwLock;

use super::database::Holder;
use super::{Error, Service};
use crate::clock::Clock;
use crate::db::{self, Db, partners as table};
use crate::domain::api_key;
use crate::domain::chat::Line;
use crate::domain::handle::PhoneNumber;
use crate::domain::tier::Tier;
use crate::id::{LineId, PartnerId};

/// Most keys remembered; when it is reached all are forgotten.
const CACHED_KEYS: usize = 10_000;

/// Keys that were found before, by hash. Keys are only ever added, so what was found stays true.
#[derive(Debug, Default)]
pub(super) struct KeyCache(RwLock<HashMap<String, PartnerId>>);

impl Service {
    /// The partner behind an API key.
    ///
    /// # Errors
    /// The database fails. An unknown key is `None`.
    pub async fn authenticate(&self, key: &str) -> Result<Option<PartnerId>, Error> {
        let hash = api_key::hash(key);
        if let Some(partner) = self.keys.0.read().expect("no panic while locked").get(&hash) {
            return Ok(Some(*partner));
        }
        let found = table::by_key(&mut *self.db.read(Holder::UnknownKeys).await?, &hash).await?;
        if let Some(partner) = found {
            let mut keys = self.keys.0.write().expect("no panic while locked");
            if keys.len() >= CACHED_KEYS {
                keys.clear();
            }
            keys.insert(hash, partner);
        }
        Ok(found)
    }

    /// A partner's lines, oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn lines(&self, partner: PartnerId) -> Result<Vec<Line>, Error> {
        Ok(table::lines(&mut *self.db.read(partner).await?, partner).await?)
    }
}

/// Why a partner cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// Name, key or number is taken.
    #[error("{0}")]
    Taken(String),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Adds a partner with one key and any number of lines, all or nothing. Needs only the database, so that it works
/// beside a running server.
///
/// # Errors
/// Name, key or a number is taken already.
pub async fn add(
    db: &Db,
    clock: &Clock,
    name: String,
    key: &str,
    numbers: Vec<PhoneNumber>,
) -> Result<PartnerId, AddError> {
    let (hash, now, id) = (api_key::hash(key), clock.now(), PartnerId::new());
    db.write(move |db| {
        Box::pin(async move {
            let taken = |what: String| {
                move |error: db::Error| if error.is_duplicate() { AddError::Taken(what) } else { error.into() }
            };
            let name_taken = taken(format!("there is a partner {name:?} already"));
            table::insert(db, id, &name, now).await.map_err(name_taken)?;
            let key_taken = taken("this API key is in use already".to_owned());
            table::insert_key(db, id, &hash, now).await.map_err(key_taken)?;
            for number in &numbers {
                let number_taken = taken(format!("{number} belongs to a partner already"));
                table::insert_line(db, id, number, now).await.map_err(number_taken)?;
            }
            Ok(id)
        })
    })
    .await
}

/// Why a tier cannot be set.
#[derive(Debug, thiserror::Error)]
pub enum SetTierError {
    /// There is no such partner or line.
    #[error("{0}; haversack partner list shows what there is")]
    Unknown(String),
    /// The database failed.
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Whose tier is set.
#[derive(Clone, Debug)]
pub enum TierOf {
    /// The partner of a name.
    Partner(String),
    /// The line of a number.
    Line(PhoneNumber),
}

/// Sets how long files are kept that come from now on. Needs only the database: a running server looks for every file
/// that it makes.
///
/// # Errors
/// There is no such partner or line.
pub async fn set_tier(db: &Db, clock: &Clock, of: TierOf, tier: Tier) -> Result<(), SetTierError> {
    let now = clock.now();
    db.write(move |db| {
        Box::pin(async move {
            let (found, unknown) = match of {
                TierOf::Partner(name) => {
                    (table::set_tier(db, &name, tier, now).await?, format!("there is no partner {name:?}"))
                }
                TierOf::Line(number) => {
                    let found = table::set_line_tier(db, &number, tier, now).await?;
                    (found, format!("{number} is no partner's phone number"))
                }
            };
            if found { Ok(()) } else { Err(SetTierError::Unknown(unknown)) }
        })
    })
    .await
}

/// The partners and the lines that are ephemeral themselves.
///
/// # Errors
/// The database fails.
pub async fn ephemeral(db: &Db) -> Result<(HashSet<PartnerId>, HashSet<LineId>), db::Error> {
    table::ephemeral(&mut *db.read().await?).await
}

/// A partner and its lines.
#[derive(Debug)]
pub struct Listed {
    /// Its id.
    pub id: PartnerId,
    /// Its name.
    pub name: String,
    /// Its lines.
    pub lines: Vec<Line>,
}

/// Every partner, oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<Listed>, db::Error> {
    let mut db = db.read().await?;
    let mut partners = Vec::new();
    for (id, name) in table::all(&mut db).await? {
        partners.push(Listed { id, name, lines: table::lines(&mut db, id).await? });
    }
    Ok(partners)
}
