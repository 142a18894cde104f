//! Reads and writes the table `attachments`.

mod delete;
mod pending;
mod row;
mod state;

use std::collections::HashMap;

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{optional_time, size, text};
use super::{Connection, Error, locks, placeholders};
use crate::clock::Timestamp;
use crate::domain::attachment::Attachment;
use crate::id::{AttachmentId, BlobId, PartnerId};

pub use delete::{delete, delete_copied, delete_expired};
pub use pending::{count_pending, delete_failed, expire_overdue, expire_pending, find_overdue};
pub use row::insert;
pub(in crate::db) use row::read;
pub use state::{Received, mark_processed, mark_rejected, mark_stored, mark_undecodable};

/// Returns a partner's attachment, unless it has expired. A query with the id of another partner's
/// attachment takes as long as one with an unknown id.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    id: AttachmentId,
    now: Timestamp,
) -> Result<Option<Attachment>, Error> {
    let row = sqlx::query("SELECT * FROM attachments WHERE id = $1 AND partner_id = $2")
        .bind(id.to_string())
        .bind(partner.to_string())
        .fetch_optional(db)
        .await?;
    let attachment = row.as_ref().map(read).transpose()?;
    Ok(attachment.filter(|attachment| !attachment.is_expired(now)))
}

/// Returns those of a partner's attachments `ids` that exist and have not expired.
pub async fn find_each(
    db: &mut Connection,
    partner: PartnerId,
    ids: &[AttachmentId],
    now: Timestamp,
) -> Result<HashMap<AttachmentId, Attachment>, Error> {
    let mut found = HashMap::with_capacity(ids.len());
    for row in fetch_rows(db, "*", partner, ids).await? {
        let attachment = read(&row)?;
        if !attachment.is_expired(now) {
            found.insert(attachment.id, attachment);
        }
    }
    Ok(found)
}

/// Returns true if all of a partner's attachments `ids`, which must be distinct, are stored and
/// have not expired.
pub async fn are_stored(
    db: &mut Connection,
    partner: PartnerId,
    ids: &[AttachmentId],
    now: Timestamp,
) -> Result<bool, Error> {
    let mut stored = 0;
    for row in fetch_rows(db, "stored_at, expires_at", partner, ids).await? {
        let is_expired =
            optional_time(&row, "expires_at")?.is_some_and(|expires_at| expires_at <= now);
        stored += usize::from(optional_time(&row, "stored_at")?.is_some() && !is_expired);
    }
    Ok(stored == ids.len())
}

async fn fetch_rows(
    db: &mut Connection,
    columns: &'static str,
    partner: PartnerId,
    ids: &[AttachmentId],
) -> Result<Vec<AnyRow>, Error> {
    let mut rows = Vec::with_capacity(ids.len());
    for ids in ids.chunks(placeholders::MAX_LISTED) {
        let ids = placeholders::padded(ids.to_vec());
        let statement = AssertSqlSafe(format!(
            "SELECT {columns} FROM attachments WHERE partner_id = $1 AND id IN ({})",
            placeholders::list(2, ids.len())
        ));
        let query = sqlx::query(statement).bind(partner.to_string());
        let query = ids
            .iter()
            .fold(query, |query, id| query.bind(id.to_string()));
        rows.extend(query.fetch_all(&mut *db).await?);
    }
    Ok(rows)
}

/// Returns an attachment of any partner, expired or not. Only for ids that this server has issued
/// to the caller.
pub async fn find_including_expired(
    db: &mut Connection,
    id: AttachmentId,
) -> Result<Option<Attachment>, Error> {
    let row = sqlx::query("SELECT * FROM attachments WHERE id = $1")
        .bind(id.to_string())
        .fetch_optional(db)
        .await?;
    row.as_ref().map(read).transpose()
}

/// Returns the media type and size that an attachment's upload URL is signed for; empty and 0 if
/// the attachment does not exist.
pub async fn signed_for(db: &mut Connection, id: AttachmentId) -> Result<(String, u64), Error> {
    // Always one row, so that the response time does not reveal which ids exist.
    let row = sqlx::query(
        "SELECT COALESCE(MAX(signed_type), '') AS signed_type, COALESCE(MAX(size_bytes), 0) AS size_bytes \
         FROM attachments WHERE id = $1",
    )
    .bind(id.to_string())
    .fetch_one(db)
    .await?;
    Ok((text(&row, "signed_type")?, size(&row, "size_bytes")?))
}

/// Returns true if a stored attachment references the blob. Holds the blob's lock until the
/// transaction ends, so adding and dropping a reference cannot race.
pub async fn is_referenced(db: &mut Connection, blob: BlobId) -> Result<bool, Error> {
    locks::lock_names(db, &[format!("blob {blob}")]).await?;
    let reference = sqlx::query(
        "SELECT 1 FROM attachments \
         WHERE (id = $1 OR blob_id = $1 OR variant_blob_id = $1) AND stored_at IS NOT NULL LIMIT 1",
    )
    .bind(blob.to_string())
    .fetch_optional(db)
    .await?;
    Ok(reference.is_some())
}
