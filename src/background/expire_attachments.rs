//! Deletes expired ephemeral attachments with their blobs.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::DELETE_CONCURRENCY;
use crate::db::{Connection, attachments};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// Maximum number of attachments per transaction. Each takes several statements.
const EXPIRE_BATCH: u32 = 100;

pub(super) async fn run(service: Arc<Service>) -> Result<(), Error> {
    let now = service.clock.now();
    // Another server on the same database may have deleted the row already.
    service.files.drop_expired(now);
    loop {
        let delete =
            service
                .db
                .transaction(Holder::Background, async move |db: &mut Connection| {
                    attachments::delete_expired(db, now, EXPIRE_BATCH).await
                });
        let (expired, blobs) = delete.await?;
        for attachment in &expired {
            service.files.evict(attachment.partner_id, attachment.id);
        }
        // Deletes the blobs at once, however many: only failures are left to the deletion queue.
        let delete = |blob| {
            let service = &service;
            async move {
                if let Err(error) = service.remove_blob(Holder::Background, &blob).await {
                    tracing::error!(blob = %blob.id(), %error, "cannot delete expired blob; will be retried");
                }
            }
        };
        stream::iter(blobs)
            .for_each_concurrent(DELETE_CONCURRENCY, delete)
            .await;
        if expired.len() < EXPIRE_BATCH as usize {
            return Ok(());
        }
    }
}
