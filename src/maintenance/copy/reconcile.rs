//! Reconciles the target with the source when a copy is repeated.

use std::pin::pin;

use futures_util::TryStreamExt;

use super::{Error, PAGE};
use crate::clock::Timestamp;
use crate::db::table_copy::{ATTACHMENTS, NEVER_DELETED, Table, TableSchema};
use crate::db::{Connection, attachments, audit_records};
use crate::domain::attachment::UploadState;
use crate::storage::Storage;

/// Fails if the target is newer than the source, since a copy would overwrite the target's changes.
/// Rows that the source never contained prove that it is newer: messages are never deleted, and
/// deleted attachments leave an audit record.
pub(super) async fn ensure_target_not_ahead(from: &Storage, to: &Storage) -> Result<(), Error> {
    for table in NEVER_DELETED {
        let schema = TableSchema::of(&mut *to.db.read().await?, table).await?;
        let mut pages = pin!(schema.pages(&to.db, PAGE));
        while let Some(page) = pages.try_next().await? {
            for row in page {
                if !schema.contains(&mut *from.db.read().await?, &row).await? {
                    return Err(Error::InUse(table.name.to_owned()));
                }
            }
        }
    }
    let schema = TableSchema::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let mut pages = pin!(schema.attachment_pages(&to.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        for (row, attachment) in page {
            let is_stored = matches!(attachment.state, UploadState::Stored { .. });
            let mut db = from.db.read().await?;
            if is_stored
                && !schema.contains(&mut db, &row).await?
                && !audit_records::was_deleted(&mut db, attachment.id).await?
            {
                return Err(Error::InUse(format!("attachment {}", attachment.id)));
            }
        }
    }
    Ok(())
}

/// Deletes rows that an earlier copy wrote and that were since deleted in the source. Returns their
/// number. If outbox entries remained, messages already sent would be sent a second time.
pub(super) async fn prune_deleted(
    from: &Storage,
    to: &Storage,
    table: Table,
) -> Result<u64, Error> {
    let schema = TableSchema::of(&mut *to.db.read().await?, table).await?;
    let mut pruned = 0;
    let mut pages = pin!(schema.pages(&to.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        for row in page {
            if schema.contains(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            pruned += 1;
            let schema = schema.clone();
            to.db
                .transaction(async move |db: &mut Connection| schema.delete(db, &row).await)
                .await?;
        }
    }
    Ok(pruned)
}

/// Deletes attachments, with their files, that an earlier copy wrote and that were since deleted in
/// the source. Returns their number.
pub(super) async fn prune_deleted_attachments(
    from: &Storage,
    to: &Storage,
    now: Timestamp,
) -> Result<u64, Error> {
    let schema = TableSchema::of(&mut *to.db.read().await?, ATTACHMENTS).await?;
    let mut pruned = 0;
    let mut pages = pin!(schema.attachment_pages(&to.db, PAGE));
    while let Some(page) = pages.try_next().await? {
        for (row, attachment) in page {
            if schema.contains(&mut *from.db.read().await?, &row).await? {
                continue;
            }
            pruned += 1;
            let delete = to.db.transaction(async move |db: &mut Connection| {
                attachments::delete_copied(db, &attachment, now).await
            });
            for key in delete.await? {
                to.blobs.remove(&key).await?;
            }
        }
    }
    Ok(pruned)
}
