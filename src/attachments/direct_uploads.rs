//! Uploads that went to the bucket without us: looked for when their attachment is first used, judged, and made its file
//! by a copy, so that nothing that is put there later can change it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tracing::Instrument;

use super::download::metadata;
use super::inspect::Inspected;
use crate::background::BATCH;
use crate::blob::{self, StagedBlob};
use crate::clock::Timestamp;
use crate::db::attachments::{self as table, Received};
use crate::db::{self, Connection, blob_deletions};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Ingest, Rejection};
use crate::service::database::Holder;
use crate::service::{Error, Service};

/// How often an upload that is replaced while it is looked at is looked at again.
const MAX_FINALIZE_ATTEMPTS: u32 = 5;
/// What the removal of an upload starts with in the table of removals; the rest is the attachment's id.
const REMOVAL: &str = "upload ";

/// What a send knows of attachments that await their file.
#[derive(Clone, Debug)]
pub(crate) struct DirectUploadChecks {
    in_bucket: bool,
    /// Looked for already: once for each send, so that it comes to an end.
    looked_for: HashSet<AttachmentId>,
}

impl DirectUploadChecks {
    /// Whether the file of an attachment may have come without us.
    pub(crate) fn needs_check(&self, id: AttachmentId) -> bool {
        self.in_bucket && !self.looked_for.contains(&id)
    }
}

/// Whether there are uploads in a bucket, and when the last of one can end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StagedUploads {
    in_bucket: bool,
    longest: Duration,
}

impl StagedUploads {
    /// The upload whose removal this asks for.
    pub(crate) fn from_deletion_key(key: &str) -> Option<AttachmentId> {
        AttachmentId::parse(key.strip_prefix(REMOVAL)?)
    }

    /// Asks for what is uploaded for an attachment to be removed once nobody can upload any more: its URL is good until
    /// then, whatever becomes of the attachment.
    pub(crate) async fn enqueue_deletion(
        self,
        db: &mut Connection,
        attachment: &Attachment,
        now: Timestamp,
    ) -> Result<(), db::Error> {
        // One that was fetched never had a URL.
        if !self.in_bucket || attachment.signed_type.is_empty() {
            return Ok(());
        }
        let not_before = attachment.upload_expires_at + self.longest;
        blob_deletions::enqueue(db, &format!("{REMOVAL}{}", attachment.id), not_before, now).await
    }
}

impl Service {
    pub(crate) fn awaited(&self) -> DirectUploadChecks {
        DirectUploadChecks {
            in_bucket: self.blobs.bucket().is_some(),
            looked_for: HashSet::new(),
        }
    }

    pub(crate) fn uploads(&self) -> StagedUploads {
        StagedUploads {
            in_bucket: self.blobs.bucket().is_some(),
            longest: self.limits.longest_upload(),
        }
    }

    /// Looks for the file of an attachment for a send.
    pub(crate) async fn finalize_for_send(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
        awaited: &mut DirectUploadChecks,
    ) -> Result<(), Error> {
        awaited.looked_for.insert(id);
        self.finalize_detached(partner, id).await.map(drop)
    }

    /// The attachment after its file was looked for, if it may have come without us. `None`: it is gone.
    pub(crate) async fn finalize_if_direct(
        self: &Arc<Self>,
        attachment: Attachment,
    ) -> Result<Option<Attachment>, Error> {
        if self.blobs.bucket().is_none() || attachment.state != UploadState::Pending {
            return Ok(Some(attachment));
        }
        self.finalize_detached(attachment.partner_id, attachment.id)
            .await
    }

    /// Gives up overdue attachments, but for those whose file came in time and was never asked for.
    pub(crate) async fn finalize_overdue(
        self: &Arc<Self>,
        closed_before: Timestamp,
        now: Timestamp,
    ) -> Result<(), Error> {
        let mut after = None;
        loop {
            let overdue = table::find_overdue(
                &mut *self.db.read(Holder::Background).await?,
                closed_before,
                after,
                BATCH,
            )
            .await?;
            let Some(last) = overdue.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for attachment in overdue {
                if attachment.is_expired(now) {
                    // Nobody swept for longer than an ephemeral file may be there.
                    self.expire_one(attachment, now).await?;
                    continue;
                }
                match self
                    .finalize_detached(attachment.partner_id, attachment.id)
                    .await
                {
                    Ok(Some(attachment)) if attachment.state == UploadState::Pending => {
                        self.expire_one(attachment, now).await?;
                    }
                    Ok(_) => {}
                    // The others would fail as well, each after a while.
                    Err(Error::Blob(error)) if error.is_transient() => return Err(error.into()),
                    Err(error) => {
                        let id = attachment.id;
                        tracing::error!(%id, %error, "an upload cannot be looked at; it will be tried again");
                    }
                }
            }
        }
    }

    async fn expire_one(&self, attachment: Attachment, now: Timestamp) -> Result<(), Error> {
        let uploads = self.uploads();
        let write = self.db.write(Holder::Background, move |db| {
            Box::pin(async move {
                if table::expire_pending(db, attachment.id, now).await? {
                    // A crash may have left it.
                    blob_deletions::enqueue(db, &attachment.uploaded_key().to_string(), now, now)
                        .await?;
                    uploads.enqueue_deletion(db, &attachment, now).await?;
                }
                Ok::<_, Error>(())
            })
        });
        write.await
    }

    /// A task of its own: who goes away now must not let go of the lock before the row is written.
    async fn finalize_detached(
        self: &Arc<Self>,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let service = Arc::clone(self);
        let settle = async move { service.finalize(partner, id).await };
        tokio::spawn(settle.in_current_span())
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    /// Makes what was uploaded the file of the attachment, unless it has one or it was given up.
    async fn finalize(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        let Some(bucket) = self.blobs.bucket() else {
            return self.find(partner, id).await;
        };
        // Held from reading the row to writing it: what was published for it must not be replaced once it says so.
        let _publishing = self.lock_attachment(partner, id).await?;
        for _ in 0..MAX_FINALIZE_ATTEMPTS {
            let Some(attachment) = self.find(partner, id).await? else {
                return Ok(None);
            };
            if attachment.state != UploadState::Pending {
                return Ok(Some(attachment));
            }
            let Some(sealed) = bucket.staged_upload(id.blob_id()).await? else {
                return Ok(Some(attachment));
            };
            match self.accept(&attachment, sealed).await {
                Err(Error::Blob(blob::Error::PreconditionFailed | blob::Error::NotFound)) => {
                    tracing::info!(%id, "an upload was replaced while it was looked at; looking again");
                }
                kept => {
                    kept?;
                    return self.find(partner, id).await;
                }
            }
        }
        let problem = "it is replaced again and again".to_owned();
        Err(blob::Error::Unavailable {
            action: "look at an upload",
            problem,
        }
        .into())
    }

    async fn accept(
        &self,
        attachment: &Attachment,
        sealed: Box<dyn StagedBlob>,
    ) -> Result<(), Error> {
        let id = attachment.id;
        let (size, sha256) = (sealed.digests().size, sealed.digests().sha256.clone());
        let (sealed, inspected) = if size == attachment.size_bytes {
            let declared =
                media::declared(&attachment.declared_type).map(|declared| declared.media_type);
            self.inspect(
                attachment.partner_id,
                sealed,
                attachment.filename.clone(),
                declared,
                Ingest::Upload,
            )
            .await?
        } else {
            // Not every bucket keeps to the length that was signed.
            let told = attachment.size_bytes;
            (
                sealed,
                Err(Rejection::Unsupported(format!(
                    "the file has {size} bytes and not the {told} of size_bytes"
                ))),
            )
        };
        let now = self.clock.now();
        let received = Received {
            sha256,
            md5: sealed.digests().md5.clone(),
            at: now,
        };
        match inspected {
            Ok(inspected) => {
                self.publish_and_record(attachment, sealed, received, inspected)
                    .await?;
            }
            Err(refusal) => {
                let (uploads, attachment, reason) =
                    (self.uploads(), attachment.clone(), refusal.to_string());
                let write = self.db.write(attachment.partner_id, move |db| {
                    Box::pin(async move {
                        table::mark_rejected(db, id, &received, &reason).await?;
                        uploads.enqueue_deletion(db, &attachment, now).await
                    })
                });
                write.await?;
            }
        }
        self.remove_upload(id).await;
        Ok(())
    }

    async fn publish_and_record(
        &self,
        attachment: &Attachment,
        sealed: Box<dyn StagedBlob>,
        received: Received,
        Inspected {
            media_type,
            media_info,
        }: Inspected,
    ) -> Result<(), Error> {
        let (id, key, now) = (attachment.id, attachment.uploaded_key(), received.at);
        sealed
            .publish(
                &key,
                &metadata(media_type.name, &attachment.filename, attachment.tier()),
            )
            .await?;
        let (partner, uploads, row) = (attachment.partner_id, self.uploads(), attachment.clone());
        let write = self.db.write(partner, move |db| {
            Box::pin(async move {
                let stored =
                    table::mark_stored(db, id, &received, media_type.name, media_info).await?;
                uploads.enqueue_deletion(db, &row, now).await?;
                Ok::<_, Error>(stored)
            })
        });
        // If this fails the object stays without a row. What was uploaded is still there, to be looked for again.
        if !write.await? && self.stored(partner, id).await?.is_none() {
            // Deleted or given up meanwhile. Had another server stored it, the object would be the one it names.
            let text = key.to_string();
            let ask = self.db.write(partner, move |db| {
                Box::pin(async move { blob_deletions::enqueue(db, &text, now, now).await })
            });
            ask.await?;
            self.remove_blob(partner.into(), &key).await?;
        }
        Ok(())
    }

    /// Removes what was uploaded for an attachment, which is of no use any more. That it may fail, and that more may be
    /// uploaded, is what the sweeper is asked for.
    pub(crate) async fn remove_upload(&self, id: AttachmentId) {
        let Some(bucket) = self.blobs.bucket() else {
            return;
        };
        if let Err(error) = bucket.remove_upload(id.blob_id()).await {
            tracing::warn!(%id, %error, "an upload that is not needed cannot be removed; it will be tried again");
        }
    }

    /// The same once nobody can upload any more, and then the asking.
    pub(crate) async fn remove_upload_for_good(
        &self,
        id: AttachmentId,
        key: String,
    ) -> Result<(), Error> {
        if let Some(bucket) = self.blobs.bucket() {
            bucket.remove_upload(id.blob_id()).await?;
        }
        self.forget_deletion(Holder::Background, key).await
    }

    async fn find(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Option<Attachment>, Error> {
        Ok(table::find(
            &mut *self.db.read(partner).await?,
            partner,
            id,
            self.clock.now(),
        )
        .await?)
    }
}
