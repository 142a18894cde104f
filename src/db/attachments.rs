//! Attachments, the blobs to remove, and the audit records of deletions.

use sqlx::any::AnyRow;

use super::row::{optional_time, parsed, size, text, time};
use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::domain::attachment::{Attachment, Content};
use crate::id::{AttachmentId, AuditId, PartnerId};

/// From a row that holds all columns of the table.
pub(super) fn read(row: &AnyRow) -> Result<Attachment, Error> {
    let content = match optional_time(row, "stored_at")? {
        Some(at) => Content::Stored { sha256: text(row, "sha256")?, md5: text(row, "md5")?, at },
        None if optional_time(row, "abandoned_at")?.is_some() => Content::Abandoned,
        None => Content::Awaited,
    };
    Ok(Attachment {
        id: parsed(row, "id", AttachmentId::parse)?,
        partner_id: parsed(row, "partner_id", PartnerId::parse)?,
        filename: text(row, "filename")?,
        declared_type: text(row, "declared_type")?,
        signed_type: text(row, "signed_type")?,
        media_type: text(row, "media_type")?,
        size_bytes: size(row, "size_bytes")?,
        created_at: time(row, "created_at")?,
        upload_expires_at: time(row, "upload_expires_at")?,
        content,
    })
}

/// Adds an attachment whose bytes are awaited.
pub async fn insert(db: &mut Connection, attachment: &Attachment) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO attachments (id, partner_id, filename, declared_type, signed_type, media_type, size_bytes, \
         created_at, upload_expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(attachment.id.to_string())
    .bind(attachment.partner_id.to_string())
    .bind(&attachment.filename)
    .bind(&attachment.declared_type)
    .bind(&attachment.signed_type)
    .bind(&attachment.media_type)
    .bind(i64::try_from(attachment.size_bytes).unwrap_or(i64::MAX))
    .bind(attachment.created_at.as_millis())
    .bind(attachment.upload_expires_at.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// An attachment, whoever owns it.
pub async fn find(db: &mut Connection, id: AttachmentId) -> Result<Option<Attachment>, Error> {
    let row = sqlx::query("SELECT * FROM attachments WHERE id = $1").bind(id.to_string()).fetch_optional(db).await?;
    row.as_ref().map(read).transpose()
}

/// Records that the whole body is stored. `false`: the attachment is gone, or no longer awaits one.
pub async fn mark_stored(
    db: &mut Connection,
    id: AttachmentId,
    sha256: &str,
    md5: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE attachments SET sha256 = $2, md5 = $3, stored_at = $4 \
         WHERE id = $1 AND stored_at IS NULL AND abandoned_at IS NULL",
    )
    .bind(id.to_string())
    .bind(sha256)
    .bind(md5)
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a partner's attachment, asks for its blob to be removed, and writes the audit record. `false`: there is
/// no such attachment.
pub async fn delete(
    db: &mut Connection,
    partner: PartnerId,
    id: AttachmentId,
    blob_key: &str,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM attachments WHERE id = $1 AND partner_id = $2")
        .bind(id.to_string())
        .bind(partner.to_string())
        .execute(&mut *db)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    request_removal(db, blob_key, now).await?;
    sqlx::query(
        "INSERT INTO audit_records (id, partner_id, action, subject_id, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(AuditId::new().to_string())
    .bind(partner.to_string())
    .bind("attachment.deleted")
    .bind(id.to_string())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(true)
}

/// How many of a partner's attachments await their bytes and still may get them.
pub async fn count_pending(db: &mut Connection, partner: PartnerId, now: Timestamp) -> Result<u64, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS pending FROM attachments \
         WHERE partner_id = $1 AND upload_expires_at > $2 AND stored_at IS NULL AND abandoned_at IS NULL",
    )
    .bind(partner.to_string())
    .bind(now.as_millis())
    .fetch_one(db)
    .await?;
    size(&row, "pending")
}

/// Gives up attachments whose window closed before `closed_before`; says which, at most `limit`.
pub async fn abandon_overdue(
    db: &mut Connection,
    closed_before: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<AttachmentId>, Error> {
    let rows = sqlx::query(
        "UPDATE attachments SET abandoned_at = $1 WHERE id IN (SELECT id FROM attachments \
         WHERE upload_expires_at < $2 AND stored_at IS NULL AND abandoned_at IS NULL LIMIT $3) RETURNING id",
    )
    .bind(now.as_millis())
    .bind(closed_before.as_millis())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| parsed(row, "id", AttachmentId::parse)).collect()
}

/// Drops the rows of attachments given up before `before`, at most `limit`; says how many.
pub async fn purge_abandoned(db: &mut Connection, before: Timestamp, limit: u32) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM attachments WHERE id IN (SELECT id FROM attachments WHERE abandoned_at < $1 LIMIT $2)",
    )
    .bind(before.as_millis())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Asks for a blob to be removed.
pub async fn request_removal(db: &mut Connection, blob_key: &str, now: Timestamp) -> Result<(), Error> {
    sqlx::query("INSERT INTO blob_removals (blob_key, created_at) VALUES ($1, $2) ON CONFLICT (blob_key) DO NOTHING")
        .bind(blob_key)
        .bind(now.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Blobs asked to be removed, at most `limit`.
pub async fn removals(db: &mut Connection, limit: u32) -> Result<Vec<String>, Error> {
    let rows = sqlx::query("SELECT blob_key FROM blob_removals LIMIT $1").bind(i64::from(limit)).fetch_all(db).await?;
    rows.iter().map(|row| text(row, "blob_key")).collect()
}

/// Records that a blob was removed.
pub async fn removal_done(db: &mut Connection, blob_key: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM blob_removals WHERE blob_key = $1").bind(blob_key).execute(db).await?;
    Ok(())
}
