//! Stores the HTTP validators of fetched media URLs, so that a later fetch can revalidate
//! (`If-None-Match`, `If-Modified-Since`).

use super::row::{optional_text, text};
use super::{Connection, Error, attachments};
use crate::clock::Timestamp;
use crate::domain::attachment::Attachment;
use crate::domain::validators::Validators;
use crate::id::{AttachmentId, PartnerId};

/// Returns the attachment that a partner last fetched from a URL, with the validators of that
/// response.
pub async fn find(
    db: &mut Connection,
    partner: PartnerId,
    url_hash: &str,
) -> Result<Option<(Attachment, Validators)>, Error> {
    let row = sqlx::query(
        "SELECT fetched_urls.final_hash, fetched_urls.etag, fetched_urls.last_modified, attachments.* \
         FROM fetched_urls JOIN attachments ON attachments.id = fetched_urls.attachment_id \
         WHERE fetched_urls.partner_id = $1 AND fetched_urls.url_hash = $2 AND attachments.stored_at IS NOT NULL",
    )
    .bind(partner.to_string())
    .bind(url_hash)
    .fetch_optional(db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let validators = Validators {
        url: text(&row, "final_hash")?,
        etag: optional_text(&row, "etag")?,
        last_modified: optional_text(&row, "last_modified")?,
    };
    Ok(Some((attachments::read(&row)?, validators)))
}

/// Records the attachment that was fetched from a URL, with the validators of the response.
pub async fn upsert(
    db: &mut Connection,
    partner: PartnerId,
    url_hash: &str,
    attachment: AttachmentId,
    validators: &Validators,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO fetched_urls (partner_id, url_hash, attachment_id, final_hash, etag, last_modified, fetched_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (partner_id, url_hash) DO UPDATE SET \
         attachment_id = $3, final_hash = $4, etag = $5, last_modified = $6, fetched_at = $7",
    )
    .bind(partner.to_string())
    .bind(url_hash)
    .bind(attachment.to_string())
    .bind(&validators.url)
    .bind(&validators.etag)
    .bind(&validators.last_modified)
    .bind(now.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

pub(super) async fn delete_of_attachment(
    db: &mut Connection,
    attachment: AttachmentId,
) -> Result<(), Error> {
    sqlx::query("DELETE FROM fetched_urls WHERE attachment_id = $1")
        .bind(attachment.to_string())
        .execute(db)
        .await?;
    Ok(())
}

pub async fn delete(db: &mut Connection, partner: PartnerId, url_hash: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM fetched_urls WHERE partner_id = $1 AND url_hash = $2")
        .bind(partner.to_string())
        .bind(url_hash)
        .execute(db)
        .await?;
    Ok(())
}

/// Deletes at most `limit` entries last fetched before `before`. Returns their number.
pub async fn delete_before(
    db: &mut Connection,
    before: Timestamp,
    limit: u32,
) -> Result<u64, Error> {
    let done = sqlx::query(
        "DELETE FROM fetched_urls WHERE (partner_id, url_hash) IN \
         (SELECT partner_id, url_hash FROM fetched_urls WHERE fetched_at < $1 LIMIT $2)",
    )
    .bind(before.as_millis())
    .bind(i64::from(limit))
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
