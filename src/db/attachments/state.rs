//! Records the state transitions of an attachment: stored, rejected, processed.

use super::row::column;
use crate::clock::Timestamp;
use crate::db::row::escape_nul;
use crate::db::{Connection, Error};
use crate::domain::attachment::{AudioInfo, Variant};
use crate::domain::tier::EPHEMERAL_LIFE;
use crate::id::AttachmentId;
use crate::media::MediaInfo;

/// Hashes of a completely received upload, and the time at which it was durable.
#[derive(Clone, Debug)]
pub struct Received {
    /// SHA-256 in lowercase hexadecimal; `None` for direct uploads to a bucket.
    pub sha256: Option<String>,
    /// MD5 in lowercase hexadecimal, or the entity tag that the bucket reports.
    pub md5: String,
    /// Time at which the uploaded bytes were durable.
    pub at: Timestamp,
}

/// Records that an attachment's upload is stored, with its detected media type. Returns false if
/// the attachment was deleted or is no longer pending.
pub async fn mark_stored(
    db: &mut Connection,
    id: AttachmentId,
    received: &Received,
    media_type: &'static str,
    media_info: MediaInfo,
) -> Result<bool, Error> {
    // The lifetime of an ephemeral file starts when its bytes are stored.
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
    .bind(media_info.width.map(i64::from))
    .bind(media_info.height.map(i64::from))
    .bind(media_info.duration_ms.map(column))
    .bind((received.at + EPHEMERAL_LIFE).as_millis())
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that an attachment's upload was rejected. Returns false if the attachment was deleted or
/// is no longer pending.
pub async fn mark_rejected(
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

/// Records an attachment's variant and audio analysis. Returns false if the attachment was deleted
/// or is already processed.
pub async fn mark_processed(
    db: &mut Connection,
    id: AttachmentId,
    variant: Option<&Variant>,
    audio: Option<&AudioInfo>,
    now: Timestamp,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "UPDATE attachments SET processed_at = $2, variant_blob_id = $3, variant_filename = $4, variant_type = $5, \
         variant_size = $6, variant_md5 = $7, channels = $8, sample_rate = $9, waveform = $10 \
         WHERE id = $1 AND processed_at IS NULL",
    )
    .bind(id.to_string())
    .bind(now.as_millis())
    .bind(variant.map(|variant| variant.blob_id.to_string()))
    .bind(variant.map(|variant| escape_nul(&variant.filename)))
    .bind(variant.map(|variant| variant.media_type.clone()))
    .bind(variant.map(|variant| column(variant.size_bytes)))
    .bind(variant.map(|variant| variant.md5.clone()))
    .bind(audio.map(|audio| i64::from(audio.channels)))
    .bind(audio.map(|audio| i64::from(audio.sample_rate)))
    .bind(audio.map(|audio| base16ct::lower::encode_string(&audio.waveform)))
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Records that an audio file cannot be decoded.
pub async fn mark_undecodable(db: &mut Connection, id: AttachmentId) -> Result<(), Error> {
    sqlx::query("UPDATE attachments SET duration_ms = NULL WHERE id = $1")
        .bind(id.to_string())
        .execute(db)
        .await?;
    Ok(())
}
