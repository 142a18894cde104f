//! Looks up the response stored under an idempotency key (phase 1).

use super::{Error, Sends, StoredResponse};
use crate::db::{Connection, idempotency};
use crate::id::PartnerId;

impl Sends {
    /// Returns the response to an earlier send with this idempotency key, or `None` if there is
    /// none.
    ///
    /// # Errors
    /// The earlier message was deleted, or the database fails.
    pub async fn replay(
        &self,
        partner: PartnerId,
        key: Option<&str>,
    ) -> Result<Option<StoredResponse>, Error> {
        match key {
            Some(key) => stored_response(&mut *self.db.read(partner).await?, partner, key).await,
            None => Ok(None),
        }
    }
}

pub(super) async fn stored_response(
    db: &mut Connection,
    partner: PartnerId,
    key: &str,
) -> Result<Option<StoredResponse>, Error> {
    match idempotency::find(db, partner, key).await? {
        Some(kept) if kept.message_deleted => Err(Error::MessageNotFound),
        kept => Ok(kept.map(|kept| StoredResponse {
            status: kept.status,
            body: kept.body,
        })),
    }
}
