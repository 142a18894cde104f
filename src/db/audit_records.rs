//! Reads and deletes the audit records of deleted and expired attachments.

use super::{Connection, Error};
use crate::clock::Timestamp;
use crate::domain::attachment::Attachment;
use crate::id::{AttachmentId, AuditId};

pub(super) async fn insert(
    db: &mut Connection,
    attachment: &Attachment,
    action: &'static str,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO audit_records (id, partner_id, action, subject_id, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(AuditId::new().to_string())
    .bind(attachment.partner_id.to_string())
    .bind(action)
    .bind(attachment.id.to_string())
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Returns true if there is a record that the attachment was deleted or has expired.
pub async fn was_deleted(db: &mut Connection, id: AttachmentId) -> Result<bool, Error> {
    let record = sqlx::query("SELECT 1 FROM audit_records WHERE subject_id = $1 LIMIT 1")
        .bind(id.to_string());
    Ok(record.fetch_optional(db).await?.is_some())
}

/// Deletes at most `limit` records written before `before`. Returns their number.
pub async fn delete_before(
    db: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM audit_records WHERE id IN (SELECT id FROM audit_records WHERE created_at < $1 LIMIT $2)",
    )
    .bind(before.as_millis())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
