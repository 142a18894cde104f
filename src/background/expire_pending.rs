//! Expires pending attachments whose upload window has closed. In a bucket, an upload that was
//! completed in time but never used is finalized instead.

use std::sync::Arc;

use super::BATCH;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments, blob_deletions};
use crate::service::database::Holder;
use crate::service::{Error, Service};

pub(super) async fn run(service: Arc<Service>) -> Result<(), Error> {
    let now = service.clock.now();
    // An upload that started just before its window closed may still be running.
    let closed_before = now - service.limits.longest_upload();
    if service.blobs.bucket().is_some() {
        return service.finalize_overdue(closed_before, now).await;
    }
    while expire_batch(&service, closed_before, now).await? == BATCH as usize {}
    Ok(())
}

/// Expires one batch. Queues the blobs for deletion: a crash between publishing a blob and
/// recording it leaves one.
async fn expire_batch(
    service: &Service,
    closed_before: Timestamp,
    now: Timestamp,
) -> Result<usize, Error> {
    service
        .db
        .transaction(Holder::Background, async move |db: &mut Connection| {
            let overdue = attachments::expire_overdue(db, closed_before, now, BATCH).await?;
            for attachment in &overdue {
                let key = attachment.uploaded_key().to_string();
                blob_deletions::enqueue(db, &key, now, now).await?;
            }
            Ok(overdue.len())
        })
        .await
}
