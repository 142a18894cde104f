//! Deletes attachments, writes an audit record of each, and queues the deletion of unreferenced
//! blobs.

use super::{is_referenced, read};
use crate::clock::Timestamp;
use crate::db::{Connection, Error, audit_records, blob_deletions, fetched_urls};
use crate::domain::attachment::Attachment;
use crate::domain::blob_key::BlobKey;
use crate::id::{AttachmentId, PartnerId};

/// Deletes a partner's attachment, unless it has expired. Returns the attachment, and its blobs
/// that are now unreferenced and were queued for deletion.
pub async fn delete(
    db: &mut Connection,
    partner: PartnerId,
    id: AttachmentId,
    now: Timestamp,
) -> Result<Option<(Attachment, Vec<BlobKey>)>, Error> {
    let row = sqlx::query(
        "DELETE FROM attachments WHERE id = $1 AND partner_id = $2 AND (expires_at IS NULL OR expires_at > $3) RETURNING *",
    )
    .bind(id.to_string())
    .bind(partner.to_string())
    .bind(now.as_millis())
    .fetch_optional(&mut *db)
    .await?;
    let Some(attachment) = row.as_ref().map(read).transpose()? else {
        return Ok(None);
    };
    let unreferenced = delete_dependents(db, &attachment, "attachment.deleted", now).await?;
    Ok(Some((attachment, unreferenced)))
}

/// Deletes at most `limit` attachments that have expired at `now`, as [`delete`] does. Pending
/// attachments are skipped until they are set to expired, since an upload may be in progress.
pub async fn delete_expired(
    db: &mut Connection,
    now: Timestamp,
    limit: u32,
) -> Result<(Vec<Attachment>, Vec<BlobKey>), Error> {
    let rows = sqlx::query(
        "DELETE FROM attachments WHERE id IN (SELECT id FROM attachments \
         WHERE expires_at <= $1 AND (stored_at IS NOT NULL OR failed_at IS NOT NULL) ORDER BY expires_at LIMIT $2) \
         RETURNING *",
    )
    .bind(now.as_millis())
    .bind(i64::from(limit))
    .fetch_all(&mut *db)
    .await?;
    let expired = rows.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut unreferenced = Vec::new();
    for attachment in &expired {
        unreferenced.extend(delete_dependents(db, attachment, "attachment.expired", now).await?);
    }
    Ok((expired, unreferenced))
}

/// Deletes an attachment that an earlier run of `haversack copy` copied, because it was deleted in
/// the source since. Returns the attachment's blobs that are now unreferenced.
pub async fn delete_copied(
    db: &mut Connection,
    attachment: &Attachment,
    now: Timestamp,
) -> Result<Vec<BlobKey>, Error> {
    let id = attachment.id.to_string();
    sqlx::query("DELETE FROM attachments WHERE id = $1")
        .bind(id)
        .execute(&mut *db)
        .await?;
    delete_dependents(db, attachment, "attachment.deleted", now).await
}

/// Deletes the data that depends on an attachment's row. Returns the attachment's blobs that are
/// now unreferenced, after queueing them for deletion.
async fn delete_dependents(
    db: &mut Connection,
    attachment: &Attachment,
    action: &'static str,
    now: Timestamp,
) -> Result<Vec<BlobKey>, Error> {
    fetched_urls::delete_of_attachment(db, attachment.id).await?;
    audit_records::insert(db, attachment, action, now).await?;
    let mut unreferenced = Vec::new();
    for key in attachment.keys() {
        if !is_referenced(db, key.id()).await? {
            blob_deletions::enqueue(db, &key.to_string(), now, now).await?;
            unreferenced.push(key);
        }
    }
    Ok(unreferenced)
}
