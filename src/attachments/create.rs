//! Making, reading and deleting attachments.

use std::sync::Arc;
use std::time::Duration;

use crate::blob;
use crate::clock::Timestamp;
use crate::db::{attachments as table, partners};
use crate::domain::attachment::{Attachment, UploadState};
use crate::domain::filename;
use crate::domain::tier::{MAX_EPHEMERAL_WINDOW, Tier};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, MediaInfo};
use crate::quote::quoted;
use crate::service::{Error, Service};
use crate::url_signing::UploadGrant;

/// What a caller says of a file it will upload.
#[derive(Clone, Debug)]
pub struct NewAttachment {
    /// Its name.
    pub filename: String,
    /// Its type.
    pub content_type: String,
    /// Its size in bytes; may be out of any range.
    pub size_bytes: i128,
}

/// An attachment that awaits its bytes, and where to send them.
#[derive(Clone, Debug)]
pub struct UploadTicket {
    /// The attachment.
    pub attachment: Attachment,
    /// Where to PUT the bytes.
    pub upload_url: String,
    /// Where the file will be.
    pub download_url: String,
}

impl Service {
    /// Makes an attachment whose bytes follow by PUT.
    ///
    /// # Errors
    /// A name, type or size that is not accepted, or too many attachments that wait already.
    pub async fn create_attachment(
        &self,
        partner: PartnerId,
        new: NewAttachment,
    ) -> Result<UploadTicket, Error> {
        check_filename(&new.filename)?;
        if new.size_bytes < 1 {
            return Err(Error::EmptyFile);
        }
        let declared = media::declared(&new.content_type).ok_or_else(|| {
            Error::UnsupportedType(format!(
                "content_type {} is not supported; docs/reference/media-types.md lists what is, without parameters",
                quoted(&new.content_type)
            ))
        })?;
        if let Some(extension) = media::refused_extension(&new.filename) {
            return Err(Error::UnsupportedType(format!(
                "files named .{extension} are not supported"
            )));
        }
        let limit = self.limits.max_upload_bytes;
        let size_bytes = u64::try_from(new.size_bytes)
            .ok()
            .filter(|size| *size <= limit)
            .ok_or(Error::TooLarge(limit))?;
        let now = self.clock.now();
        let text = new.filename.len() + new.content_type.len();
        let reservation = self.reserve_pending(partner, now).await?;
        let id = AttachmentId::new();
        let mut attachment = Attachment {
            id,
            partner_id: partner,
            filename: new.filename,
            declared_type: declared.reported.to_owned(),
            signed_type: new.content_type,
            media_type: declared.media_type.name.to_owned(),
            size_bytes,
            created_at: now,
            upload_expires_at: now + self.limits.upload_url_ttl(),
            blob_id: id.blob_id(),
            media_info: MediaInfo::default(),
            processed: false,
            variant: None,
            audio: None,
            expires_at: None,
            state: UploadState::Pending,
        };
        let write = self.db.write_bytes(partner, text, move |db| {
            Box::pin(async move {
                let tier = partners::tier(db, partner).await?;
                if tier == Tier::Ephemeral {
                    attachment.upload_expires_at =
                        attachment.upload_expires_at.min(now + MAX_EPHEMERAL_WINDOW);
                }
                // An upload may begin until its window closes; what comes of it has its time from then on.
                attachment.expires_at = tier.expires_at(attachment.upload_expires_at);
                table::insert(db, &attachment).await?;
                Ok::<_, Error>((attachment, reservation))
            })
        });
        // The reservation is given back once the row is committed, even if the caller does not wait for that.
        let (attachment, _) = write.await?;
        Ok(UploadTicket {
            upload_url: self.upload_url(&attachment),
            download_url: self.file_urls.uploaded(&attachment),
            attachment,
        })
    }

    /// Where the bytes of a new attachment go: to the bucket if there is one, else to us.
    fn upload_url(&self, attachment: &Attachment) -> String {
        let Attachment {
            id,
            signed_type,
            size_bytes,
            ..
        } = attachment;
        if let Some(bucket) = self.blobs.bucket() {
            let window =
                attachment.upload_expires_at.as_millis() - attachment.created_at.as_millis();
            let window = Duration::from_millis(u64::try_from(window).unwrap_or(0));
            return bucket.presign_put(id.blob_id(), signed_type, *size_bytes, window);
        }
        let expires = attachment.upload_expires_at;
        let grant = UploadGrant {
            id: *id,
            expires,
            content_type: signed_type,
            content_length: *size_bytes,
        };
        self.public_url.join(&self.signer.url(&grant))
    }

    /// A partner's attachment, in any state, and the moment its state is told for.
    ///
    /// # Errors
    /// There is none, or it is another partner's.
    pub async fn attachment(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(Attachment, Timestamp), Error> {
        let now = self.clock.now();
        let found = table::find(&mut *self.db.read(partner).await?, partner, id, now).await?;
        let attachment = found.ok_or(Error::AttachmentNotFound)?;
        let attachment = self
            .finalize_if_direct(attachment)
            .await?
            .ok_or(Error::AttachmentNotFound)?;
        Ok((attachment, now))
    }

    /// Deletes an attachment for good: its bytes, its metadata, and any upload under way. Messages that used it stay.
    ///
    /// # Errors
    /// There is none, or it is another partner's.
    pub async fn delete_attachment(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(), Error> {
        let service = Arc::clone(self);
        // A task of its own: a client that goes away now must not leave a deleted file among the open ones.
        tokio::spawn(async move { service.delete(partner, id).await })
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    async fn delete(&self, partner: PartnerId, id: AttachmentId) -> Result<(), Error> {
        // Held until the file is gone: an upload that ends now must find the row gone before it renames its file.
        let _publishing = self.lock_attachment(partner, id).await?;
        let now = self.clock.now();
        let uploads = self.uploads();
        let write = self.db.write(partner, move |db| {
            Box::pin(async move {
                let deleted = table::delete(db, partner, id, now).await?;
                if let Some((attachment, _)) = &deleted {
                    uploads.enqueue_deletion(db, attachment, now).await?;
                }
                Ok::<_, Error>(deleted)
            })
        });
        let (attachment, blobs) = write.await?.ok_or(Error::AttachmentNotFound)?;
        self.files.evict(partner, id);
        // The attachment is gone whatever becomes of its files, which were asked to be removed in the same transaction.
        for blob in blobs {
            if let Err(error) = self.remove_blob(partner.into(), &blob).await {
                tracing::error!(%error, "a deleted file cannot be removed; it will be tried again");
            }
        }
        // One that was fetched was never uploaded.
        if !attachment.signed_type.is_empty() {
            self.remove_upload(id).await;
        }
        Ok(())
    }
}

fn check_filename(name: &str) -> Result<(), Error> {
    let length = name.chars().count();
    if length > filename::MAX_LENGTH {
        return Err(Error::FilenameTooLong(length));
    }
    Ok(())
}
