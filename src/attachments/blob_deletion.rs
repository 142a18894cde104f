//! Deletion of blobs that no attachment references.

use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::{Connection, blob_deletions};
use crate::service::database::Holder;
use crate::service::{Error, Service};

impl Service {
    /// Deletes a blob from the deletion queue. Returns false if another server holds the lease or
    /// an attachment now references the blob.
    pub(crate) async fn delete_if_unreferenced(
        &self,
        holder: Holder,
        key: &BlobKey,
    ) -> Result<bool, Error> {
        let is_leased = self
            .lease_deletion(holder, key.clone(), self.clock.now())
            .await?;
        if is_leased {
            self.remove_blob(holder, key).await?;
        }
        Ok(is_leased)
    }

    /// Deletes a blob, then its queue entry.
    pub(crate) async fn remove_blob(&self, holder: Holder, key: &BlobKey) -> Result<(), Error> {
        self.blobs.remove(key).await?;
        self.forget_deletion(holder, key.to_string()).await
    }

    async fn lease_deletion(
        &self,
        holder: Holder,
        key: BlobKey,
        now: Timestamp,
    ) -> Result<bool, Error> {
        let lease = self
            .db
            .transaction(holder, async move |db: &mut Connection| {
                blob_deletions::lease(db, &key, now).await
            });
        Ok(lease.await?)
    }

    pub(crate) async fn forget_deletion(&self, holder: Holder, key: String) -> Result<(), Error> {
        let complete = self
            .db
            .transaction(holder, async move |db: &mut Connection| {
                blob_deletions::complete(db, &key).await
            });
        Ok(complete.await?)
    }
}
