//! Finds attachments whose upload is not complete, and sets them to expired.

use super::read;
use crate::clock::Timestamp;
use crate::db::row::size;
use crate::db::{Connection, Error};
use crate::domain::attachment::Attachment;
use crate::id::{AttachmentId, PartnerId};

/// Counts a partner's pending attachments whose upload window is still open.
pub async fn count_pending(
    db: &mut Connection,
    partner: PartnerId,
    now: Timestamp,
) -> Result<u64, Error> {
    let row = sqlx::query(
        "SELECT COUNT(*) AS pending FROM attachments \
         WHERE partner_id = $1 AND upload_expires_at > $2 AND stored_at IS NULL AND failed_at IS NULL",
    )
    .bind(partner.to_string())
    .bind(now.as_millis())
    .fetch_one(db)
    .await?;
    size(&row, "pending")
}

/// Returns at most `limit` pending attachments with ids above `after` whose upload window closed
/// before `closed_before`.
pub async fn find_overdue(
    db: &mut Connection,
    closed_before: Timestamp,
    after: Option<AttachmentId>,
    limit: u32,
) -> Result<Vec<Attachment>, Error> {
    let rows = sqlx::query(
        "SELECT * FROM attachments WHERE upload_expires_at < $1 AND stored_at IS NULL AND failed_at IS NULL \
         AND id > $2 ORDER BY id LIMIT $3",
    )
    .bind(closed_before.as_millis())
    .bind(after.map(|id| id.to_string()).unwrap_or_default())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Sets a pending attachment to expired. Returns false if it is no longer pending.
pub async fn expire_pending(
    db: &mut Connection,
    id: AttachmentId,
    now: Timestamp,
) -> Result<bool, Error> {
    let done =
        sqlx::query("UPDATE attachments SET failed_at = $2 WHERE id = $1 AND stored_at IS NULL AND failed_at IS NULL")
            .bind(id.to_string())
            .bind(now.as_millis())
            .execute(db)
            .await?;
    Ok(done.rows_affected() == 1)
}

/// Sets at most `limit` pending attachments whose upload window closed before `closed_before` to
/// expired, and returns them.
pub async fn expire_overdue(
    db: &mut Connection,
    closed_before: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Attachment>, Error> {
    let rows = sqlx::query(
        // The state is checked both in the subquery and in the update: on PostgreSQL an upload can
        // complete between the two.
        "UPDATE attachments SET failed_at = $1 WHERE id IN (SELECT id FROM attachments \
         WHERE upload_expires_at < $2 AND stored_at IS NULL AND failed_at IS NULL LIMIT $3) \
         AND stored_at IS NULL AND failed_at IS NULL RETURNING *",
    )
    .bind(now.as_millis())
    .bind(closed_before.as_millis())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(read).collect()
}

/// Deletes at most `limit` attachments that expired or were rejected before `before`. Returns their
/// number.
pub async fn delete_failed(
    db: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Error> {
    let done =
        sqlx::query("DELETE FROM attachments WHERE id IN (SELECT id FROM attachments WHERE failed_at < $1 LIMIT $2)")
            .bind(before.as_millis())
            .bind(i64::from(limit))
            .execute(db)
            .await?;
    Ok(done.rows_affected())
}
