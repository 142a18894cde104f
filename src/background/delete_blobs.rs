//! Processes the deletion queue of blobs.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::{BATCH, DELETE_CONCURRENCY};
use crate::attachments::direct_uploads::StagedUploads;
use crate::blob::BlobKey;
use crate::clock::Timestamp;
use crate::db::{Connection, blob_deletions};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// Delay before a failed deletion is retried.
const RETRY_DELAY: Duration = Duration::from_mins(1);

pub(super) async fn run(service: Arc<Service>) -> Result<(), Error> {
    let now = service.clock.now();
    loop {
        let keys =
            blob_deletions::due(&mut *service.db.read(Holder::Background).await?, now, BATCH)
                .await?;
        let is_last = keys.len() < BATCH as usize;
        stream::iter(keys)
            .map(Ok)
            .try_for_each_concurrent(DELETE_CONCURRENCY, |key| process(&service, key, now))
            .await?;
        if is_last {
            return Ok(());
        }
    }
}

/// Processes one entry. If the deletion fails, or another server has leased it, the entry is
/// rescheduled.
async fn process(service: &Service, key: String, now: Timestamp) -> Result<(), Error> {
    match delete(service, key.clone()).await {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => {
            tracing::error!(blob = key.split(' ').next(), %error, "cannot delete blob; will be retried");
        }
    }
    let until = now + RETRY_DELAY;
    let reschedule = service
        .db
        .transaction(Holder::Background, async move |db: &mut Connection| {
            blob_deletions::reschedule(db, &key, until).await
        });
    Ok(reschedule.await?)
}

/// Returns false if another server holds the lease or the deletion was cancelled.
async fn delete(service: &Service, key: String) -> Result<bool, Error> {
    match (StagedUploads::from_deletion_key(&key), BlobKey::parse(&key)) {
        (Some(upload), _) => service.remove_upload_for_good(upload, key).await?,
        (None, Some(blob)) => {
            return service
                .delete_if_unreferenced(Holder::Background, &blob)
                .await;
        }
        // Not a valid key: drop the entry.
        (None, None) => service.forget_deletion(Holder::Background, key).await?,
    }
    Ok(true)
}
