//! Receives uploads by presigned PUT: authorizes the request, streams its body to a staged blob,
//! inspects the file, and publishes it. If several bodies are uploaded, the first complete one is
//! kept.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

use super::Attachments;
use super::active_uploads::{ActiveUpload, Busy};
use super::inspect::Inspected;
use super::staging::StagedFile;
use crate::blob::{self, Digests, StagedBlob};
use crate::budget::{AtCapacity, Reservation};
use crate::db::admission::{HeldLock, Holder};
use crate::db::attachments::{self as table, Received};
use crate::db::{self, Connection};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Ingest, Rejection};
use crate::quote::quoted;
use crate::url_signing::{SignedQuery, UploadGrant};

/// Reasons why an upload fails. `http/files/s3_error.rs` maps them to S3 error codes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the upload needs a Content-Length; chunked bodies are not accepted")]
    MissingLength,
    /// The signature does not match the URL and the headers.
    #[error("{0}")]
    BadSignature(String),
    /// The upload URL has expired.
    #[error("Request has expired")]
    Expired,
    /// The attachment was deleted.
    #[error("the attachment no longer exists")]
    NotFound,
    /// Another body was already uploaded to this URL and stored.
    #[error("another file was uploaded to this URL already; an attachment never changes")]
    Conflict,
    /// Another upload of the attachment is in progress.
    #[error("another upload to this URL is under way; try again when it has ended")]
    Busy,
    /// The body stalled, and a newer upload replaced this one.
    #[error(
        "another upload to this URL began while this one went without a byte; nothing of this one was stored"
    )]
    Replaced,
    /// The body ended before its announced length.
    #[error(
        "the body ended before Content-Length bytes had arrived; nothing was stored, and the URL is still good"
    )]
    Incomplete,
    /// The body stalled or stayed below the minimum rate.
    #[error("the body came too slowly; nothing was stored, and the URL is still good")]
    TooSlow,
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    #[error(transparent)]
    Db(db::Error),
    #[error(transparent)]
    Blob(#[from] blob::Error),
}

impl From<db::Error> for Error {
    fn from(error: db::Error) -> Self {
        match error {
            db::Error::AtCapacity(refused) => Self::AtCapacity(refused),
            error => Self::Db(error),
        }
    }
}

/// Request head of an upload: everything but the body.
#[derive(Clone, Copy, Debug)]
pub struct UploadHead<'a> {
    /// Id of the attachment that the URL path names.
    pub id: AttachmentId,
    pub query: &'a str,
    /// `Content-Type` header, verbatim; empty if absent.
    pub content_type: &'a str,
    pub content_length: Option<u64>,
}

impl Attachments {
    /// Receives an upload, and returns the digests of the received bytes. On success, the blob and
    /// the new state of the attachment are durable; on failure, nothing is stored. The body is not
    /// polled before the head is authorized.
    ///
    /// If the body's type is not accepted, or is not the declared one, the upload still succeeds,
    /// as it would with a bucket. The attachment then becomes rejected.
    ///
    /// # Errors
    /// The upload is not authorized; the body ends early, is too slow, or differs from one already
    /// stored; another upload is in progress; a budget is used up; or the database or the store
    /// fails.
    pub async fn receive_upload<E>(
        self: &Arc<Self>,
        head: UploadHead<'_>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Digests, Error> {
        let attachment = self.authorize_upload(head).await?;
        let (partner, id) = (attachment.partner_id, attachment.id);
        let upload = self
            .active_uploads
            .begin(id, self.config.upload_stall)
            .await
            .map_err(|Busy| Error::Busy)?;
        let mut reservation = self.temporary_bytes.try_reserve(&partner.to_string(), 0)?;
        let staged = tokio::select! {
            staged = self.spool_body(attachment.size_bytes, body, &upload, &mut reservation) => staged?,
            () = upload.replaced() => return Err(Error::Replaced),
        };
        upload.record_complete();
        // These are the digests of the received bytes. The stored bytes differ from them if
        // metadata is removed.
        let received = staged.digests().clone();
        // Checked before the inspection, which only the first complete body needs.
        if let Some(result) = self.existing_result(partner, id, &received).await? {
            return Ok(result);
        }
        let declared =
            media::declared(&attachment.declared_type).map(|declared| declared.media_type);
        let filename = attachment.filename.clone();
        let (staged, inspected) = self
            .inspect(partner, staged, filename, declared, Ingest::Upload)
            .await?;
        // Runs as a detached task: a published blob must get its row even if the client disconnects
        // now.
        let attachments = Arc::clone(self);
        let record = async move {
            let result = attachments
                .record_upload(&attachment, received, staged, inspected)
                .await;
            drop((upload, reservation));
            result
        };
        tokio::spawn(record)
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    /// Checks an upload's signature and expiry. Returns the attachment to upload to.
    async fn authorize_upload(&self, head: UploadHead<'_>) -> Result<Attachment, Error> {
        // With a bucket, uploads go there directly; URLs issued before the bucket was configured
        // would bypass it.
        if self.blobs.bucket().is_some() {
            return Err(Error::NotFound);
        }
        let query = SignedQuery::parse(head.query).ok_or_else(|| {
            Error::BadSignature(
                "the URL is not a complete upload URL of this server: use upload_url unchanged"
                    .to_owned(),
            )
        })?;
        let content_length = head.content_length.ok_or(Error::MissingLength)?;
        let grant = UploadGrant {
            id: head.id,
            expires: query.expires,
            content_type: head.content_type,
            content_length,
        };
        if !self.file_urls.signer.verify(&grant, query.signature) {
            return Err(Error::BadSignature(
                self.explain_mismatch(&grant, query.signature).await?,
            ));
        }
        let now = self.clock.now();
        if now >= query.expires {
            return Err(Error::Expired);
        }
        // The request names no partner, so ownership is not checked: the signature proves that the
        // URL was issued to the attachment's owner.
        let mut db = self.db.read(Holder::Uploads).await?;
        let found = table::find_including_expired(&mut db, head.id).await?;
        let attachment = found
            .filter(|attachment| !attachment.is_expired(now))
            .ok_or(Error::NotFound)?;
        if attachment.state == UploadState::Expired {
            return Err(Error::Expired);
        }
        Ok(attachment)
    }

    /// Returns the error for an invalid signature. It names the signed headers only if the
    /// signature matches them, that is, if the caller was given the URL. The same steps run whether
    /// or not the attachment exists, so that timing does not reveal its existence.
    async fn explain_mismatch(
        &self,
        grant: &UploadGrant<'_>,
        signature: &str,
    ) -> Result<String, Error> {
        let mut db = self.db.read(Holder::UnsignedUploads).await?;
        let (content_type, content_length) = table::signed_for(&mut db, grant.id).await?;
        let signed = UploadGrant {
            content_type: &content_type,
            content_length,
            ..*grant
        };
        Ok(if self.file_urls.signer.verify(&signed, signature) {
            format!(
                "the URL is signed for Content-Type {} and Content-Length {}, but the request has {} and {}: \
                 send the required_headers as they were given",
                quoted(signed.content_type),
                signed.content_length,
                quoted(grant.content_type),
                grant.content_length
            )
        } else {
            "the URL was altered: use upload_url unchanged".to_owned()
        })
    }

    /// Locks an attachment against concurrent publishing and deletion. The lock's name includes the
    /// partner, so that a caller who guesses another partner's id does not wait for that partner's
    /// upload.
    pub(super) async fn lock_attachment(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<HeldLock, db::Error> {
        self.db
            .lock(partner, format!("publish {partner} {id}"))
            .await
    }

    /// Returns the result of an upload to an attachment that already has a body: success if the
    /// bodies are equal, otherwise an error. Returns `None` if the attachment is pending.
    async fn existing_result(
        &self,
        partner: PartnerId,
        id: AttachmentId,
        received: &Digests,
    ) -> Result<Option<Digests>, Error> {
        let now = self.clock.now();
        let found = table::find(&mut *self.db.read(partner).await?, partner, id, now).await?;
        match found.ok_or(Error::NotFound)?.state {
            UploadState::Pending => Ok(None),
            UploadState::Expired => Err(Error::Expired),
            UploadState::Stored { sha256, .. } | UploadState::Rejected { sha256, .. }
                if sha256 == received.sha256 =>
            {
                Ok(Some(received.clone()))
            }
            UploadState::Stored { .. } | UploadState::Rejected { .. } => Err(Error::Conflict),
        }
    }

    async fn spool_body<E>(
        &self,
        size: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        upload: &ActiveUpload,
        reservation: &mut Reservation,
    ) -> Result<Box<dyn StagedBlob>, Error> {
        let mut writer = self.blobs.create().await?;
        let mut pace = self.config.upload_pace();
        let mut last = Instant::now();
        let mut received = 0;
        while received < size {
            let next = timeout(pace.next_chunk_timeout(), body.next())
                .await
                .map_err(|_| Error::TooSlow)?;
            let Some(Ok(chunk)) = next else {
                return Err(Error::Incomplete);
            };
            upload.record_chunk();
            let now = Instant::now();
            pace.moved(now - last, chunk.len());
            last = now;
            received += chunk.len() as u64;
            reservation.try_grow(chunk.len() as u64)?;
            self.metrics.uploaded_bytes.inc_by(chunk.len() as u64);
            writer.write(chunk).await?;
        }
        // Without a Content-Length to frame it, a body can be longer than announced.
        if received != size {
            return Err(Error::Incomplete);
        }
        Ok(writer.seal().await?)
    }

    /// Publishes an inspected upload, or records why it was rejected.
    async fn record_upload(
        &self,
        attachment: &Attachment,
        received: Digests,
        staged: Box<dyn StagedBlob>,
        inspected: Result<Inspected, Rejection>,
    ) -> Result<Digests, Error> {
        let (partner, id) = (attachment.partner_id, attachment.id);
        let _lock = self.lock_attachment(partner, id).await?;
        if let Some(result) = self.existing_result(partner, id, &received).await? {
            return Ok(result);
        }
        let record = Received {
            sha256: received.sha256.clone(),
            md5: staged.digests().md5.clone(),
            at: self.clock.now(),
        };
        let recorded = match inspected {
            Ok(inspected) => {
                self.publish_upload(attachment, staged, record, inspected)
                    .await?
            }
            Err(rejection) => {
                let reason = rejection.to_string();
                let mark = self
                    .db
                    .transaction(partner, async move |db: &mut Connection| {
                        table::mark_rejected(db, id, &record, &reason).await
                    });
                mark.await?
            }
        };
        // If nothing was recorded, the sweeper has expired the attachment since the check above.
        if recorded {
            Ok(received)
        } else {
            Err(Error::Expired)
        }
    }

    /// Publishes an upload's blob and marks the attachment as stored. Returns false if the
    /// attachment is no longer pending.
    async fn publish_upload(
        &self,
        attachment: &Attachment,
        staged: Box<dyn StagedBlob>,
        record: Received,
        inspected: Inspected,
    ) -> Result<bool, Error> {
        let Inspected {
            media_type,
            media_info,
        } = inspected;
        let attachment = Attachment {
            media_type: media_type.name.to_owned(),
            ..attachment.clone()
        };
        let id = attachment.id;
        let StagedFile { key, headers, blob } = StagedFile::original(&attachment, staged);
        blob.publish(&key, &headers).await?;
        // If the transaction fails, the blob has no row: the next upload overwrites it, or the
        // sweeper deletes it.
        let stored = self
            .db
            .transaction(attachment.partner_id, async move |db: &mut Connection| {
                table::mark_stored(db, id, &record, media_type.name, media_info).await
            })
            .await?;
        if !stored {
            self.blobs.remove(&key).await?;
        }
        Ok(stored)
    }
}
