//! Finalizes direct uploads, which a client PUTs to a presigned bucket URL without going through
//! this server. When the attachment is first used, the uploaded object is inspected and copied to
//! its final key, so that a later PUT cannot change the file.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use super::inspect::Inspected;
use super::staging::StagedFile;
use super::{Attachments, Error};
use crate::blob::{self, StagedBlob};
use crate::clock::Timestamp;
use crate::db::admission::Holder;
use crate::db::attachments::{self as table, Received};
use crate::db::{self, Connection, blob_deletions};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Ingest, Rejection};

/// Maximum number of attempts to finalize an upload; a client that uploads another body meanwhile
/// makes an attempt fail.
const MAX_FINALIZE_ATTEMPTS: u32 = 5;
/// Prefix that marks a direct upload in the deletion queue; the attachment id follows.
const DELETION_PREFIX: &str = "upload ";

/// Remembers which attachments a send has already checked for a direct upload.
#[derive(Clone, Debug)]
pub(crate) struct DirectUploadChecks {
    in_bucket: bool,
    /// Attachments already checked. A send checks each of them only once, so that it terminates.
    checked: HashSet<AttachmentId>,
}

impl DirectUploadChecks {
    /// Returns true if a pending attachment may have a direct upload that this send has not checked
    /// for.
    pub(crate) fn needs_check(&self, id: AttachmentId) -> bool {
        self.in_bucket && !self.checked.contains(&id)
    }
}

/// Deletes the objects of direct uploads from the bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectUploads {
    in_bucket: bool,
    max_upload_duration: Duration,
}

impl DirectUploads {
    /// Parses a key in the deletion queue. Returns `None` if the key does not name a direct upload.
    pub(super) fn parse_deletion_key(key: &str) -> Option<AttachmentId> {
        AttachmentId::parse(key.strip_prefix(DELETION_PREFIX)?)
    }

    /// Queues an attachment's uploaded object for deletion after the last possible upload has
    /// ended. The bucket accepts the presigned URL until it expires, even if the attachment is
    /// deleted earlier.
    pub(super) async fn enqueue_deletion(
        self,
        db: &mut Connection,
        attachment: &Attachment,
        now: Timestamp,
    ) -> Result<(), db::Error> {
        if !self.in_bucket || !attachment.was_uploaded() {
            return Ok(());
        }
        let not_before = attachment.upload_expires_at + self.max_upload_duration;
        let key = format!("{DELETION_PREFIX}{}", attachment.id);
        blob_deletions::enqueue(db, &key, not_before, now).await
    }
}

impl Attachments {
    pub(crate) fn direct_upload_checks(&self) -> DirectUploadChecks {
        DirectUploadChecks {
            in_bucket: self.blobs.bucket().is_some(),
            checked: HashSet::new(),
        }
    }

    pub(super) fn direct_uploads(&self) -> DirectUploads {
        DirectUploads {
            in_bucket: self.blobs.bucket().is_some(),
            max_upload_duration: self.config.max_upload_duration(),
        }
    }

    /// Finalizes an attachment's direct upload, if there is one, so that a send can use the file.
    pub(crate) async fn finalize_for_send(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
        checks: &mut DirectUploadChecks,
    ) -> Result<(), Error> {
        checks.checked.insert(id);
        self.finalize_detached(partner, id).await.map(drop)
    }

    /// Finalizes an attachment's direct upload, if one is possible, and returns the attachment.
    /// Returns `None` if the attachment was deleted.
    pub(super) async fn finalize_if_direct(
        self: &Arc<Self>,
        attachment: Attachment,
    ) -> Result<Option<Attachment>, Error> {
        if self.blobs.bucket().is_none() || attachment.state != UploadState::Pending {
            return Ok(Some(attachment));
        }
        self.finalize_detached(attachment.partner_id, attachment.id)
            .await
    }

    /// Finalizes an upload in a detached task, so that a client that disconnects does not release
    /// the lock before the row is written.
    pub(super) async fn finalize_detached(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let attachments = Arc::clone(self);
        let finalize = async move { attachments.finalize(partner, id).await };
        tokio::spawn(finalize.in_current_span())
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    /// Finalizes the direct upload of a pending attachment, if there is one. Returns the
    /// attachment, or `None` if it was deleted.
    async fn finalize(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let Some(bucket) = self.blobs.bucket() else {
            return self.find(partner, partner, id).await;
        };
        // The lock is held from reading the row to writing it: once the row refers to the published
        // object, nothing may replace that object.
        let _lock = self.lock_attachment(partner, id).await?;
        for _ in 0..MAX_FINALIZE_ATTEMPTS {
            let Some(attachment) = self.find(partner, partner, id).await? else {
                return Ok(None);
            };
            if attachment.state != UploadState::Pending {
                return Ok(Some(attachment));
            }
            let Some(staged) = bucket.staged_upload(id.blob_id()).await? else {
                return Ok(Some(attachment));
            };
            match self.accept(&attachment, staged).await {
                Err(Error::Blob(blob::Error::PreconditionFailed | blob::Error::NotFound)) => {
                    tracing::info!(attachment = %id, "direct upload was replaced while it was finalized; trying again");
                }
                accepted => {
                    accepted?;
                    return self.find(partner, partner, id).await;
                }
            }
        }
        Err(blob::Error::Unavailable {
            action: "finalize a direct upload",
            problem: "clients keep replacing it".to_owned(),
        }
        .into())
    }

    /// Inspects a direct upload, and records the file as stored or rejected.
    async fn accept(
        &self,
        attachment: &Attachment,
        staged: Box<dyn StagedBlob>,
    ) -> Result<(), Error> {
        let (size, sha256) = (staged.digests().size, staged.digests().sha256.clone());
        let (staged, inspected) = if size == attachment.size_bytes {
            let declared =
                media::declared(&attachment.declared_type).map(|declared| declared.media_type);
            let filename = attachment.filename.clone();
            self.inspect(
                attachment.partner_id,
                staged,
                filename,
                declared,
                Ingest::Upload,
            )
            .await?
        } else {
            // Checked here, as not every bucket enforces a signed Content-Length.
            let reason = format!(
                "the file has {size} bytes and not the {} of size_bytes",
                attachment.size_bytes
            );
            (staged, Err(Rejection::Unsupported(reason)))
        };
        let received = Received {
            sha256,
            md5: staged.digests().md5.clone(),
            at: self.clock.now(),
        };
        match inspected {
            Ok(inspected) => {
                self.publish_direct_upload(attachment, staged, received, inspected)
                    .await?;
            }
            Err(rejection) => {
                self.reject_direct_upload(attachment, received, &rejection)
                    .await?;
            }
        }
        self.delete_direct_upload(attachment.id).await;
        Ok(())
    }

    async fn reject_direct_upload(
        &self,
        attachment: &Attachment,
        received: Received,
        rejection: &Rejection,
    ) -> Result<(), Error> {
        let (direct_uploads, reason) = (self.direct_uploads(), rejection.to_string());
        let attachment = attachment.clone();
        let write = self
            .db
            .transaction(attachment.partner_id, async move |db: &mut Connection| {
                table::mark_rejected(db, attachment.id, &received, &reason).await?;
                direct_uploads
                    .enqueue_deletion(db, &attachment, received.at)
                    .await
            });
        Ok(write.await?)
    }

    async fn publish_direct_upload(
        &self,
        attachment: &Attachment,
        staged: Box<dyn StagedBlob>,
        received: Received,
        inspected: Inspected,
    ) -> Result<(), Error> {
        let Inspected {
            media_type,
            media_info,
        } = inspected;
        let attachment = Attachment {
            media_type: media_type.name.to_owned(),
            ..attachment.clone()
        };
        let (partner, id, now) = (attachment.partner_id, attachment.id, received.at);
        let StagedFile { key, headers, blob } = StagedFile::original(&attachment, staged);
        blob.publish(&key, &headers).await?;
        let direct_uploads = self.direct_uploads();
        let write = self
            .db
            .transaction(partner, async move |db: &mut Connection| {
                let stored =
                    table::mark_stored(db, id, &received, media_type.name, media_info).await?;
                direct_uploads
                    .enqueue_deletion(db, &attachment, now)
                    .await?;
                Ok::<_, Error>(stored)
            });
        // If the transaction fails, the published object is orphaned. The uploaded object remains,
        // so the next use of the attachment retries.
        if !write.await? && self.find_stored(partner, id).await?.is_none() {
            // The attachment was deleted or has expired, so nothing references the published
            // object. If another server had stored the attachment, its row would reference this
            // object.
            let text = key.to_string();
            let enqueue = self
                .db
                .transaction(partner, async move |db: &mut Connection| {
                    blob_deletions::enqueue(db, &text, now, now).await
                });
            enqueue.await?;
            self.delete_blob(partner.into(), &key).await?;
        }
        Ok(())
    }

    /// Deletes a direct upload's object, which is no longer needed. If that fails, or the client
    /// uploads again to the same URL, the deletion queue deletes the object later.
    pub(super) async fn delete_direct_upload(&self, id: AttachmentId) {
        let Some(bucket) = self.blobs.bucket() else {
            return;
        };
        if let Err(error) = bucket.remove_upload(id.blob_id()).await {
            tracing::warn!(attachment = %id, %error, "cannot delete direct upload; will be retried");
        }
    }

    /// Deletes a direct upload's object and its entry in the deletion queue. Called when the upload
    /// URL has expired, so no further upload can follow.
    pub(super) async fn delete_closed_upload(
        &self,
        id: AttachmentId,
        key: String,
    ) -> Result<(), Error> {
        if let Some(bucket) = self.blobs.bucket() {
            bucket.remove_upload(id.blob_id()).await?;
        }
        self.complete_deletion(Holder::Background, key).await
    }
}
