//! Creates pending attachments, which clients then upload a file to.

use std::time::Duration;

use super::{Attachments, Error};
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, partners};
use crate::domain::attachment::{Attachment, UploadState};
use crate::domain::filename;
use crate::domain::tier::{MAX_EPHEMERAL_WINDOW, Tier};
use crate::id::PartnerId;
use crate::media;

/// File that a caller announces before uploading it.
#[derive(Clone, Debug)]
pub struct NewAttachment {
    pub filename: String,
    pub content_type: String,
    /// Announced size in bytes, not validated yet.
    pub size_bytes: i128,
}

/// A new pending attachment with its upload URL and its download URL.
#[derive(Clone, Debug)]
pub struct UploadTicket {
    pub attachment: Attachment,
    /// Presigned URL to which the client uploads the file.
    pub upload_url: String,
    /// URL at which the file can be downloaded once it is uploaded.
    pub download_url: String,
}

impl Attachments {
    /// Creates a pending attachment.
    ///
    /// # Errors
    /// The filename, type or size is not accepted, the partner's quota of pending attachments is
    /// used up, or the database fails.
    pub async fn create(
        &self,
        partner: PartnerId,
        new: NewAttachment,
    ) -> Result<UploadTicket, Error> {
        let text = new.filename.len() + new.content_type.len();
        let now = self.clock.now();
        let mut attachment = self.check_new(partner, new, now)?;
        let reservation = self.reserve_pending(partner, now).await?;
        let write =
            self.db
                .weighted_transaction(partner, text, async move |db: &mut Connection| {
                    let tier = partners::tier(db, partner).await?;
                    if tier == Tier::Ephemeral {
                        attachment.upload_expires_at =
                            attachment.upload_expires_at.min(now + MAX_EPHEMERAL_WINDOW);
                    }
                    // Provisional expiry, as late as possible: storing the upload moves it forward.
                    attachment.expires_at = tier.expires_at(attachment.upload_expires_at);
                    table::insert(db, &attachment).await?;
                    Ok::<_, Error>((attachment, reservation))
                });
        // The quota reservation is released when the row is committed, even if this call is
        // cancelled earlier.
        let (attachment, _) = write.await?;
        Ok(UploadTicket {
            upload_url: self.upload_url(&attachment),
            download_url: self.file_urls.uploaded(&attachment),
            attachment,
        })
    }

    fn check_new(
        &self,
        partner: PartnerId,
        new: NewAttachment,
        now: Timestamp,
    ) -> Result<Attachment, Error> {
        let length = new.filename.chars().count();
        if length > filename::MAX_LENGTH {
            return Err(Error::FilenameTooLong(length));
        }
        if new.size_bytes < 1 {
            return Err(Error::EmptyFile);
        }
        let Some(declared) = media::declared(&new.content_type) else {
            return Err(Error::UnsupportedType(new.content_type));
        };
        if let Some(extension) = media::refused_extension(&new.filename) {
            return Err(Error::UnsupportedExtension(extension));
        }
        let limit = self.config.max_upload_bytes;
        let size = u64::try_from(new.size_bytes).ok();
        let size = size
            .filter(|size| *size <= limit)
            .ok_or(Error::TooLarge(limit))?;
        let (media_type, state) = (declared.media_type, UploadState::Pending);
        Ok(Attachment {
            declared_type: declared.reported.to_owned(),
            signed_type: new.content_type,
            upload_expires_at: now + self.config.upload_url_ttl,
            ..Attachment::new(partner, new.filename, media_type, size, state, now)
        })
    }

    /// Returns the presigned upload URL: one that leads to the bucket if there is one, otherwise to
    /// this server.
    fn upload_url(&self, attachment: &Attachment) -> String {
        let Some(bucket) = self.blobs.bucket() else {
            return self.file_urls.upload(attachment);
        };
        let window = attachment.upload_expires_at.as_millis() - attachment.created_at.as_millis();
        let window = Duration::from_millis(u64::try_from(window).unwrap_or(0));
        bucket.presign_put(
            attachment.id.blob_id(),
            &attachment.signed_type,
            attachment.size_bytes,
            window,
        )
    }
}
