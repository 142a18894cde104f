//! Converts between database rows and [`Attachment`].

use sqlx::any::AnyRow;

use super::mark_processed;
use crate::clock::Timestamp;
use crate::db::row::{
    escape_nul, optional, optional_size, optional_text, optional_time, parsed, size, text, time,
};
use crate::db::{Connection, Error};
use crate::domain::attachment::{Attachment, AudioInfo, UploadState, Variant};
use crate::id::{AttachmentId, BlobId, PartnerId};
use crate::media::MediaInfo;

/// Converts a row that contains all columns of the table to an [`Attachment`].
pub(in crate::db) fn read(row: &AnyRow) -> Result<Attachment, Error> {
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
        media_info: MediaInfo {
            width: pixels("width")?,
            height: pixels("height")?,
            duration_ms: optional_size(row, "duration_ms")?,
        },
        processed: optional_time(row, "processed_at")?.is_some(),
        variant: variant(row)?,
        audio: audio(row)?,
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

fn audio(row: &AnyRow) -> Result<Option<AudioInfo>, Error> {
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

/// Inserts an attachment in any state.
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
    .bind(attachment.media_info.width.map(i64::from))
    .bind(attachment.media_info.height.map(i64::from))
    .bind(attachment.media_info.duration_ms.map(column))
    .bind(attachment.expires_at.map(Timestamp::as_millis))
    .execute(&mut *db)
    .await?;
    if attachment.processed {
        let (id, variant, audio) = (
            attachment.id,
            attachment.variant.as_ref(),
            attachment.audio.as_ref(),
        );
        mark_processed(db, id, variant, audio, attachment.created_at).await?;
    }
    Ok(())
}

pub(super) fn column(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
