//! Adds partners, sets their retention tiers, and authenticates them by API key.

use std::collections::HashSet;
use std::num::NonZeroUsize;
use std::sync::Mutex;

use lru::LruCache;

use crate::budget::AtCapacity;
use crate::clock::Clock;
use crate::db::admission::{Database, Holder};
use crate::db::{self, Connection, Db, partners as table};
use crate::domain::api_key;
use crate::domain::chat::Line;
use crate::domain::handle::PhoneNumber;
use crate::domain::tier::Tier;
use crate::id::{LineId, PartnerId};

/// Maximum number of cached API keys.
const CACHED_KEYS: NonZeroUsize = NonZeroUsize::new(10_000).expect("not zero");

/// Error from reading partners.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Db(db::Error),
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::AtCapacity(refused) => Self::AtCapacity(refused),
            error => Self::Db(error),
        }
    }
}

/// Operations on partners: authenticate by API key, list phone lines.
#[derive(Debug)]
pub struct Partners {
    db: Database,
    /// Partner of each recently used valid API key, by the key's hash. Keys are never deleted or
    /// changed, so cached keys need no expiry.
    keys: Mutex<LruCache<String, PartnerId>>,
}

impl Partners {
    #[must_use]
    pub(crate) fn new(db: Database) -> Self {
        Self {
            db,
            keys: Mutex::new(LruCache::new(CACHED_KEYS)),
        }
    }

    /// Returns the partner that an API key belongs to, or `None` if the key is unknown.
    ///
    /// # Errors
    /// The database fails.
    pub async fn authenticate(&self, key: &str) -> Result<Option<PartnerId>, Error> {
        let hash = api_key::hash(key);
        if let Some(partner) = self.cached(&hash) {
            return Ok(Some(partner));
        }
        let mut db = self.db.read(Holder::UnknownKeys).await?;
        let found = table::by_key(&mut db, &hash).await?;
        if let Some(partner) = found {
            let mut keys = self.keys.lock().expect("no panic while locked");
            keys.put(hash, partner);
        }
        Ok(found)
    }

    fn cached(&self, hash: &str) -> Option<PartnerId> {
        let mut keys = self.keys.lock().expect("no panic while locked");
        keys.get(hash).copied()
    }

    /// Returns a partner's phone lines, oldest first.
    ///
    /// # Errors
    /// The database fails.
    pub async fn lines(&self, partner: PartnerId) -> Result<Vec<Line>, Error> {
        Ok(table::lines(&mut *self.db.read(partner).await?, partner).await?)
    }
}

/// Error from adding a partner.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// The name, the API key or a phone number is already in use.
    #[error("{0}")]
    Taken(String),
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Adds a partner with one API key and any number of phone lines, in one transaction. Uses only the
/// database, so that it works while a server is running.
///
/// # Errors
/// The name, the key or a number is already in use, or the database fails.
pub async fn add(
    db: &Db,
    clock: &Clock,
    name: String,
    key: &str,
    numbers: Vec<PhoneNumber>,
) -> Result<PartnerId, AddError> {
    let (hash, now, id) = (api_key::hash(key), clock.now(), PartnerId::new());
    db.transaction(async move |db: &mut Connection| {
        let taken = |what: String| {
            move |error: db::Error| {
                if error.is_duplicate() {
                    AddError::Taken(what)
                } else {
                    error.into()
                }
            }
        };
        let name_taken = taken(format!("there is a partner {name:?} already"));
        table::insert(db, id, &name, now)
            .await
            .map_err(name_taken)?;
        let key_taken = taken("this API key is in use already".to_owned());
        table::insert_key(db, id, &hash, now)
            .await
            .map_err(key_taken)?;
        for number in &numbers {
            let number_taken = taken(format!("{number} belongs to a partner already"));
            table::insert_line(db, id, number, now)
                .await
                .map_err(number_taken)?;
        }
        Ok(id)
    })
    .await
}

/// Error from setting a retention tier.
#[derive(Debug, thiserror::Error)]
pub enum SetTierError {
    /// The partner or line is unknown.
    #[error("{0}; haversack partner list shows what there is")]
    Unknown(String),
    #[error(transparent)]
    Db(#[from] db::Error),
}

/// Partner or phone line whose retention tier is set.
#[derive(Clone, Debug)]
pub enum TierOf {
    /// A partner, by name.
    Partner(String),
    /// A line, by phone number.
    Line(PhoneNumber),
}

/// Sets the retention tier for a partner's or a line's new files. Takes effect without a restart: a
/// running server reads the tier from the database for every file that it creates.
///
/// # Errors
/// The partner or line is unknown, or the database fails.
pub async fn set_tier(db: &Db, clock: &Clock, of: TierOf, tier: Tier) -> Result<(), SetTierError> {
    let now = clock.now();
    db.transaction(async move |db: &mut Connection| {
        let (found, unknown) = match of {
            TierOf::Partner(name) => (
                table::set_tier(db, &name, tier, now).await?,
                format!("there is no partner {name:?}"),
            ),
            TierOf::Line(number) => {
                let found = table::set_line_tier(db, &number, tier, now).await?;
                (found, format!("{number} is no partner's phone number"))
            }
        };
        if found {
            Ok(())
        } else {
            Err(SetTierError::Unknown(unknown))
        }
    })
    .await
}

/// Returns the partners and lines whose own tier is ephemeral.
///
/// # Errors
/// The database fails.
pub async fn ephemeral(db: &Db) -> Result<(HashSet<PartnerId>, HashSet<LineId>), db::Error> {
    table::ephemeral(&mut *db.read().await?).await
}

/// A partner with its lines.
#[derive(Debug)]
pub struct Listed {
    pub id: PartnerId,
    pub name: String,
    pub lines: Vec<Line>,
}

/// Returns all partners, oldest first.
///
/// # Errors
/// The database fails.
pub async fn list(db: &Db) -> Result<Vec<Listed>, db::Error> {
    let mut db = db.read().await?;
    let mut partners = Vec::new();
    for (id, name) in table::all(&mut db).await? {
        partners.push(Listed {
            id,
            name,
            lines: table::lines(&mut db, id).await?,
        });
    }
    Ok(partners)
}
