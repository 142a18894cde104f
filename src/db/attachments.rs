//! Attachments, the blobs to remove, and the audit records of deletions.

use std::collections::HashMap;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use sqlx::any::AnyRow;

use super::row::{
    escape_nul, optional, optional_size, optional_text, optional_time, parsed, size, text, time,
};
use super::{Connection, Error, locks, placeholders};
use crate::clock::Timestamp;
use crate::domain::attachment::{Attachment, AudioInfo, UploadState, Variant};
use crate::domain::blob_key::BlobKey;
use crate::domain::tier::EPHEMERAL_LIFE;
use crate::id::{AttachmentId, AuditId, BlobId, PartnerId};
use crate::media::MediaInfo;

/// From a row that holds all columns of the table.
pub(super) fn read(row: &AnyRow) -> Result<Attachment, Error> {
    let state = match (
        optional_time(row, "stored_at")?,
        optional_text(row, "rejection_reason")?,
    ) {
        (Some(at), _) => UploadState::Stored {
            sha256: optional_text(row, "sha256")?,
            md5: text(row, "md5")?,
            at,
        },
        (None, Some(reason)) => UploadState::Rejected {
            sha256: optional_text(row, "sha256")?,
            md5: text(row, "md5")?,
            reason,
        },
        (None, None) if optional_time(row, "failed_at")?.is_some() => UploadState::Expired,
        (None, None) => UploadState::Pending,
    };
    let id = parsed(row, "id", AttachmentId::parse)?;
    let pixels = |column| {
        Ok::<_, Error>(optional_size(row, column)?.and_then(|pixels| u32::try_from(pixels).ok()))
    };
    Ok(Attachment {
        id,
        partner_id: parsed(row, "partner_id", PartnerId::parse)?,
        filename: text(row, "filename")?,
        declared_type: text(row, "declared_type")?,
        signed_type: text(row, "signed_type")?,
        media_type: text(row, "media_type")?,
        size_bytes: size(row, "size_bytes")?,
        created_at: time(row, "created_at")?,
        upload_expires_at: time(row, "upload_expires_at")?,
        blob_id: optional(row, "blob_id", BlobId::parse)?.unwrap_or(id.blob_id()),
        measures: MediaInfo {
            width: pixels("width")?,
            height: pixels("height")?,
            duration_ms: optional_size(row, "duration_ms")?,
        },
        prepared: optional_time(row, "prepared_at")?.is_some(),
        variant: variant(row)?,
        sound: sound(row)?,
        expires_at: optional_time(row, "expires_at")?,
        state,
    })
}

fn variant(row: &AnyRow) -> Result<Option<Variant>, Error> {
    let Some(blob) = optional(row, "variant_blob_id", BlobId::parse)? else {
        return Ok(None);
    };
    Ok(Some(Variant {
        filename: text(row, "variant_filename")?,
        media_type: text(row, "variant_type")?,
        size_bytes: size(row, "variant_size")?,
        md5: text(row, "variant_md5")?,
        blob_id: blob,
    }))
}

fn sound(row: &AnyRow) -> Result<Option<AudioInfo>, Error> {
    let decode = |hex: &str| base16ct::lower::decode_vec(hex).ok();
    let Some(waveform) = optional(row, "waveform", decode)? else {
        return Ok(None);
    };
    let number = |column| Ok::<_, Error>(u32::try_from(size(row, column)?).unwrap_or(u32::MAX));
    Ok(Some(AudioInfo {
        channels: number("channels")?,
        sample_rate: number("sample_rate")?,
        waveform,
    }))
}

/// Adds an attachment, with its bytes or without.
pub async fn insert(db: &mut Connection, attachment: &Attachment) -> Result<(), Error> {
    let (sha256, md5, stored_at) = match &attachment.state {
        UploadState::Stored { sha256, md5, at } => {
            (sha256.as_ref(), Some(md5), Some(at.as_millis()))
        }
        UploadState::Pending | UploadState::Expired | UploadState::Rejected { .. } => {
            (None, None, None)
        }
    };
    let shared = (!attachment.owns_blob()).then(|| attachment.blob_id.to_string());
    sqlx::query(
        "INSERT INTO attachments (id, partner_id, filename, declared_type, signed_type, media_type, size_bytes, \
         created_at, upload_expires_at, sha256, md5, stored_at, blob_id, width, height, duration_ms, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)",
    )
    .bind(attachment.id.to_string())
    .bind(attachment.partner_id.to_string())
    .bind(escape_nul(&attachment.filename))
    .bind(&attachment.declared_type)
    .bind(&attachment.signed_type)
    .bind(&attachment.media_type)
    .bind(column(attachment.size_bytes))
    .bind(attachment.created_at.as_millis())
    .bind(attachment.upload_expires_at.as_millis())
    .bind(sha256)
    .bind(md5)
    .bind(stored_at)
    .bind(shared)
    .bind(attachment.measures.width.map(i64::from))
    .bind(attachment.measures.height.map(i64::from))
    .bind(attachment.measures.duration_ms.map(column))
    .bind(attachment.expires_at.map(Timestamp::as_millis))
    .execute(&mut *db)
    .await?;
    if attachment.prepared {
        let (id, variant, sound) = (
            attachment.id,
            attachment.variant.as_ref(),
            attachment.sound.as_ref(),
        );
        mark_prepared(db, id, variant, sound, attachment.created_at).await?;
    }
    Ok(())
}

/// Records what an attachment is delivered as and what can be heard in it. `false`: it is gone, or that was recorded
/// before.
pub async fn mark_prepared(
    db: &mut Connection,
    id: AttachmentId,
    variant: Option<&Variant>,
    sound: Option<&AudioInfo>,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE attachments SET prepared_at = $2, variant_blob_id = $3, variant_filename = $4, variant_type = $5, \
         variant_size = $6, variant_md5 = $7, channels = $8, sample_rate = $9, waveform = $10 \
         WHERE id = $1 AND prepared_at IS NULL",
    )
    .bind(id.to_string())
    .bind(now.as_millis())
    .bind(variant.map(|variant| variant.blob_id.to_string()))
    .bind(variant.map(|variant| escape_nul(&variant.filename)))
    .bind(variant.map(|variant| variant.media_type.clone()))
    .bind(variant.map(|variant| column(variant.size_bytes)))
    .bind(variant.map(|variant| variant.md5.clone()))
    .bind(sound.map(|sound| i64::from(sound.channels)))
    .bind(sound.map(|sound| i64::from(sound.sample_rate)))
    .bind(sound.map(|sound| base16ct::lower::encode_string(&sound.waveform)))
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn column(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// A partner's attachment that is there at the moment `now`. Another partner's is found no more than one that does not
/// exist, and takes as long.
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

/// Those of a partner's attachments `ids` that are there at the moment `now`.
pub async fn find_each(
    db: &mut Connection,
    partner: PartnerId,
    ids: &[AttachmentId],
    now: Timestamp,
) -> Result<HashMap<AttachmentId, Attachment>, Error> {
    let mut found = HashMap::with_capacity(ids.len());
    for row in by_ids(db, "*", partner, ids).await? {
        let attachment = read(&row)?;
        if !attachment.is_expired(now) {
            found.insert(attachment.id, attachment);
        }
    }
    Ok(found)
}

/// Whether all of a partner's attachments `ids`, each named once, are still there, with their bytes.
pub async fn are_stored(
    db: &mut Connection,
    partner: PartnerId,
    ids: &[AttachmentId],
    now: Timestamp,
) -> Result<bool, Error> {
    let mut stored = 0;
    for row in by_ids(db, "stored_at, expires_at", partner, ids).await? {
        let is_expired =
            optional_time(&row, "expires_at")?.is_some_and(|expires_at| expires_at <= now);
        stored += usize::from(optional_time(&row, "stored_at")?.is_some() && !is_expired);
    }
    Ok(stored == ids.len())
}

async fn by_ids(
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

/// An attachment whoever owns it, and whether or not its time is over. For those who were given its id by us.
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

/// The media type and size that the upload URL of an attachment is signed for; empty and 0 if there is none.
pub async fn signed_for(db: &mut Connection, id: AttachmentId) -> Result<(String, u64), Error> {
    // One row either way: who has no URL of ours learns nothing from the time it takes.
    let row = sqlx::query(
        "SELECT COALESCE(MAX(signed_type), '') AS signed_type, COALESCE(MAX(size_bytes), 0) AS size_bytes \
         FROM attachments WHERE id = $1",
    )
    .bind(id.to_string())
    .fetch_one(db)
    .await?;
    Ok((text(&row, "signed_type")?, size(&row, "size_bytes")?))
}

/// What is known of a whole body once it was looked at.
#[derive(Clone, Debug)]
pub struct Received {
    /// SHA-256, lowercase hexadecimal, if it is known.
    pub sha256: Option<String>,
    /// MD5, lowercase hexadecimal, or a bucket's entity tag.
    pub md5: String,
    /// When it was safe on disk.
    pub at: Timestamp,
}

/// Records that the whole body is stored, and what it is. `false`: the attachment is gone, or no longer awaits one.
pub async fn mark_stored(
    db: &mut Connection,
    id: AttachmentId,
    received: &Received,
    media_type: &'static str,
    measures: MediaInfo,
) -> Result<bool, Error> {
    // The life of an ephemeral file begins with its bytes.
    let done = sqlx::query(
        "UPDATE attachments SET sha256 = $2, md5 = $3, stored_at = $4, media_type = $5, width = $6, height = $7, \
         duration_ms = $8, expires_at = CASE WHEN expires_at IS NULL OR expires_at < $9 THEN expires_at ELSE $9 END \
         WHERE id = $1 AND stored_at IS NULL AND failed_at IS NULL",
    )
    .bind(id.to_string())
    .bind(&received.sha256)
    .bind(&received.md5)
    .bind(received.at.as_millis())
    .bind(media_type)
    .bind(measures.width.map(i64::from))
    .bind(measures.height.map(i64::from))
    .bind(measures.duration_ms.map(column))
    .bind((received.at + EPHEMERAL_LIFE).as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that a whole body came and was not kept. `false`: the attachment is gone, or no longer awaits one.
pub async fn mark_refused(
    db: &mut Connection,
    id: AttachmentId,
    received: &Received,
    reason: &str,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE attachments SET sha256 = $2, md5 = $3, failed_at = $4, rejection_reason = $5, \
         expires_at = CASE WHEN expires_at IS NULL OR expires_at < $6 THEN expires_at ELSE $6 END \
         WHERE id = $1 AND stored_at IS NULL AND failed_at IS NULL",
    )
    .bind(id.to_string())
    .bind(&received.sha256)
    .bind(&received.md5)
    .bind(received.at.as_millis())
    .bind(escape_nul(reason))
    .bind((received.at + EPHEMERAL_LIFE).as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Removes a partner's attachment and writes the audit record. Gives what it was and the blobs that nothing names any
/// more, and asks for them to be removed. `None`: there is no such attachment.
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
    let unnamed = delete_dependents(db, &attachment, "attachment.deleted", now).await?;
    Ok(Some((attachment, unnamed)))
}

/// Removes attachments whose time was over at `now`, at most `limit`, as [`delete`] does. Gives them, and the blobs that
/// nothing names any more. One that awaits its bytes is given up first: an upload may be under way.
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
    let mut unnamed = Vec::new();
    for attachment in &expired {
        unnamed.extend(delete_dependents(db, attachment, "attachment.expired", now).await?);
    }
    Ok((expired, unnamed))
}

/// Whether an attachment was deleted, or expired: then there is a record of that.
pub async fn was_deleted(db: &mut Connection, id: AttachmentId) -> Result<bool, Error> {
    let record = sqlx::query("SELECT 1 FROM audit_records WHERE subject_id = $1 LIMIT 1")
        .bind(id.to_string());
    Ok(record.fetch_optional(db).await?.is_some())
}

/// Drops audit records that were written before a moment, at most `limit`; says how many.
pub async fn purge_audit_records(
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

/// Drops an attachment that was deleted where it was moved from. Gives the blobs that
/// nothing names any more.
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

/// What goes with the row of an attachment. Gives the blobs that nothing names any more, and asks for them to be removed.
async fn delete_dependents(
    db: &mut Connection,
    attachment: &Attachment,
    action: &'static str,
    now: Timestamp,
) -> Result<Vec<BlobKey>, Error> {
    let id = attachment.id;
    sqlx::query("DELETE FROM fetched_urls WHERE attachment_id = $1")
        .bind(id.to_string())
        .execute(&mut *db)
        .await?;
    sqlx::query(
        "INSERT INTO audit_records (id, partner_id, action, subject_id, created_at) VALUES ($1, $2, $3, $4, $5)",
    )
    .bind(AuditId::new().to_string())
    .bind(attachment.partner_id.to_string())
    .bind(action)
    .bind(id.to_string())
    .bind(now.as_millis())
    .execute(&mut *db)
    .await?;
    let mut unnamed = Vec::new();
    for key in attachment.keys() {
        if !is_referenced(db, key.id()).await? {
            enqueue_deletion(db, &key.to_string(), now, now).await?;
            unnamed.push(key);
        }
    }
    Ok(unnamed)
}

/// Whether any attachment has its bytes in this blob. Until the transaction ends nobody else who asks this gets an
/// answer: one who comes to name a blob and one who drops it must not pass each other.
pub async fn is_referenced(db: &mut Connection, blob: BlobId) -> Result<bool, Error> {
    locks::lock_names(db, &[format!("blob {blob}")]).await?;
    let named = sqlx::query(
        "SELECT 1 FROM attachments \
         WHERE (id = $1 OR blob_id = $1 OR variant_blob_id = $1) AND stored_at IS NOT NULL LIMIT 1",
    )
    .bind(blob.to_string())
    .fetch_optional(db)
    .await?;
    Ok(named.is_some())
}

/// How many of a partner's attachments await their bytes and still may get them.
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

/// Attachments whose window closed before `closed_before` without a file, with larger ids than `after`; at most `limit`.
pub async fn overdue(
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

/// Gives up an attachment that still awaits its file. `false`: it does not any more.
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

/// Gives up attachments whose window closed before `closed_before`; says which, at most `limit`.
pub async fn expire_pending_overdue(
    db: &mut Connection,
    closed_before: Timestamp,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<Attachment>, Error> {
    let rows = sqlx::query(
        // Asked twice: on PostgreSQL one may be stored between being found and being changed.
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

/// Drops the rows of attachments given up before `before`, at most `limit`; says how many.
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

/// Asks for a blob to be removed, not before a moment.
pub async fn enqueue_deletion(
    db: &mut Connection,
    blob_key: &str,
    not_before: Timestamp,
    now: Timestamp,
) -> Result<(), Error> {
    sqlx::query(
        "INSERT INTO blob_deletions (blob_key, created_at, not_before) VALUES ($1, $2, $3) \
         ON CONFLICT (blob_key) DO NOTHING",
    )
    .bind(blob_key)
    .bind(now.as_millis())
    .bind(not_before.as_millis())
    .execute(db)
    .await?;
    Ok(())
}

/// Blobs to be removed by now, at most `limit`.
pub async fn due_deletions(
    db: &mut Connection,
    now: Timestamp,
    limit: u32,
) -> Result<Vec<String>, Error> {
    let rows = sqlx::query(
        "SELECT blob_key FROM blob_deletions WHERE not_before <= $1 ORDER BY not_before LIMIT $2",
    )
    .bind(now.as_millis())
    .bind(i64::from(limit))
    .fetch_all(db)
    .await?;
    rows.iter().map(|row| text(row, "blob_key")).collect()
}

/// Takes back that a blob is to be removed, for an attachment that names it from now on. `false`: it is too late.
pub async fn cancel_deletion(db: &mut Connection, blob_key: &str) -> Result<bool, Error> {
    let done = sqlx::query("DELETE FROM blob_deletions WHERE blob_key = $1 AND claimed_at IS NULL")
        .bind(blob_key)
        .execute(db)
        .await?;
    Ok(done.rows_affected() == 1)
}

/// How long a claim of a removal lasts: whoever claimed it has removed the blob by then, or died.
const DELETION_LEASE: Duration = Duration::from_mins(5);

/// Claims the removal of a blob: no attachment can come to name it after this. If one does already, the request is dropped.
/// `false`: then, or if it was taken back, or if another server has claimed it just now.
pub async fn lease_deletion(
    db: &mut Connection,
    key: &BlobKey,
    now: Timestamp,
) -> Result<bool, Error> {
    if is_referenced(db, key.id()).await? {
        complete_deletion(db, &key.to_string()).await?;
        return Ok(false);
    }
    let done = sqlx::query(
        "UPDATE blob_deletions SET claimed_at = $2 WHERE blob_key = $1 AND (claimed_at IS NULL OR claimed_at < $3)",
    )
    .bind(key.to_string())
    .bind(now.as_millis())
    .bind((now - DELETION_LEASE).as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Puts off removals that failed, so that they do not hold up the others.
pub async fn reschedule_deletion(
    db: &mut Connection,
    blob_key: &str,
    until: Timestamp,
) -> Result<(), Error> {
    sqlx::query("UPDATE blob_deletions SET not_before = $2 WHERE blob_key = $1")
        .bind(blob_key)
        .bind(until.as_millis())
        .execute(db)
        .await?;
    Ok(())
}

/// Records that nothing in an attachment can be played.
pub async fn mark_undecodable(db: &mut Connection, id: AttachmentId) -> Result<(), Error> {
    sqlx::query("UPDATE attachments SET duration_ms = NULL WHERE id = $1")
        .bind(id.to_string())
        .execute(db)
        .await?;
    Ok(())
}

/// Records that a blob was removed, or need not be.
pub async fn complete_deletion(db: &mut Connection, blob_key: &str) -> Result<(), Error> {
    sqlx::query("DELETE FROM blob_deletions WHERE blob_key = $1")
        .bind(blob_key)
        .execute(db)
        .await?;
    Ok(())
}
