//! Receiving the bytes of an attachment: the checks before the first byte, the streaming, and publishing the result
//! so that the first complete body wins.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use tokio::time::{Instant, timeout};

use super::download::metadata;
use super::inspect::Inspected;
use super::upload_body::{Busy, Receiving};
use crate::blob::{self, Digests, StagedBlob};
use crate::budget::{AtCapacity, Reservation};
use crate::db;
use crate::db::attachments::{self as table, Received};
use crate::domain::attachment::{Attachment, UploadState};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Ingest, Rejection};
use crate::quote::quoted;
use crate::service::Service;
use crate::service::database::{Held, Holder};
use crate::url_signing::{SignedQuery, UploadGrant};

/// Why an upload was refused. Only `http/files/s3_error.rs` knows the codes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No `Content-Length`.
    #[error("the upload needs a Content-Length; chunked bodies are not accepted")]
    MissingLength,
    /// URL or headers are not what was signed.
    #[error("{0}")]
    BadSignature(String),
    /// The URL's time is over.
    #[error("Request has expired")]
    Expired,
    /// The attachment was deleted.
    #[error("the attachment no longer exists")]
    NotFound,
    /// Another body was stored first.
    #[error("another file was uploaded to this URL already; an attachment never changes")]
    Conflict,
    /// Another body is being received.
    #[error("another upload to this URL is under way; try again when it has ended")]
    Busy,
    /// A newer body came while this one stalled.
    #[error(
        "another upload to this URL began while this one went without a byte; nothing of this one was stored"
    )]
    Replaced,
    /// The body ended early.
    #[error(
        "the body ended before Content-Length bytes had arrived; nothing was stored, and the URL is still good"
    )]
    Incomplete,
    /// The body came too slowly.
    #[error("the body came too slowly; nothing was stored, and the URL is still good")]
    TooSlow,
    /// A budget is used up.
    #[error(transparent)]
    AtCapacity(#[from] AtCapacity),
    /// The database failed.
    #[error(transparent)]
    Db(db::Error),
    /// The blob store failed.
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

/// What is known of an upload before its body.
#[derive(Clone, Copy, Debug)]
pub struct UploadHead<'a> {
    /// The attachment named by the path.
    pub id: AttachmentId,
    /// The query.
    pub query: &'a str,
    /// `Content-Type`, to the letter; empty if there is none.
    pub content_type: &'a str,
    /// `Content-Length`.
    pub content_length: Option<u64>,
}

impl Service {
    /// Checks everything that can be checked before the first byte of the body.
    ///
    /// # Errors
    /// The upload is not allowed.
    pub async fn authorize_upload(&self, head: UploadHead<'_>) -> Result<Attachment, Error> {
        // There the bytes go to the bucket, and the URLs of earlier times would lead past it.
        if self.blobs.bucket().is_some() {
            return Err(Error::NotFound);
        }
        let query = SignedQuery::parse(head.query).ok_or_else(|| {
            Error::BadSignature(
                "the URL is not one of ours as it was handed out: use upload_url unchanged"
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
        if !self.signer.verify(&grant, query.signature) {
            return Err(Error::BadSignature(
                self.why_refused(&grant, query.signature).await?,
            ));
        }
        let now = self.clock.now();
        if now >= query.expires {
            return Err(Error::Expired);
        }
        // Whoever holds the signature was given it by the owner of the attachment.
        let found =
            table::find_including_expired(&mut *self.db.read(Holder::Uploads).await?, head.id)
                .await?;
        let attachment = found
            .filter(|attachment| !attachment.is_expired(now))
            .ok_or(Error::NotFound)?;
        if attachment.state == UploadState::Expired {
            return Err(Error::Expired);
        }
        Ok(attachment)
    }

    /// Says which header differs, but only to one who holds a URL of ours. Takes the same steps whether or not there is
    /// such an attachment.
    async fn why_refused(&self, grant: &UploadGrant<'_>, signature: &str) -> Result<String, Error> {
        let mut db = self.db.read(Holder::UnsignedUploads).await?;
        let (content_type, content_length) = table::signed_for(&mut db, grant.id).await?;
        let signed = UploadGrant {
            content_type: &content_type,
            content_length,
            ..*grant
        };
        Ok(if self.signer.verify(&signed, signature) {
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

    /// Receives the body of an upload that was authorized. When this returns, the bytes and the attachment's new state
    /// are safe on disk; when it fails, nothing is left. Bytes of a type that is not accepted, or not of the one
    /// declared, are no failure here: as a bucket would, this takes them; the attachment then says why they are no use.
    ///
    /// # Errors
    /// The body ends early, comes too slowly, or is not the first complete one; another one is under way; a budget is used
    /// up; or storage fails.
    pub async fn receive_upload<E>(
        self: Arc<Self>,
        attachment: &Attachment,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Digests, Error> {
        let id = attachment.id;
        let receiving = self
            .bodies
            .begin(id, self.limits.upload_stall())
            .await
            .map_err(|Busy| Error::Busy)?;
        let mut held = self
            .budgets
            .temporary_bytes
            .try_reserve(&attachment.partner_id.to_string(), 0)?;
        let sealed = tokio::select! {
            sealed = self.spool_body(attachment.size_bytes, body, &receiving, &mut held) => sealed?,
            () = receiving.replaced() => return Err(Error::Replaced),
        };
        receiving.received();
        // What came, which what is kept may differ from by what is private.
        let uploaded = sealed.digests().clone();
        // Only the first body is looked at.
        if let Some(settled) = self
            .existing_result(attachment.partner_id, id, &uploaded)
            .await?
        {
            return settled;
        }
        let declared =
            media::declared(&attachment.declared_type).map(|declared| declared.media_type);
        let (sealed, inspected) = self
            .inspect(
                attachment.partner_id,
                sealed,
                attachment.filename.clone(),
                declared,
                Ingest::Upload,
            )
            .await?;
        // A task of its own: a client that goes away now must not leave a file without its row.
        let attachment = attachment.clone();
        let settle = async move {
            let settled = self
                .record_upload(&attachment, uploaded, sealed, inspected)
                .await;
            drop((receiving, held));
            settled
        };
        tokio::spawn(settle)
            .await
            .map_err(|_| blob::Error::TaskFailed)?
    }

    /// Keeps two bodies of one attachment from being published at once, and one from being published while the attachment
    /// is deleted.
    /// The name holds the partner, so that one who guesses another's id does not wait for the owner's upload.
    pub(crate) async fn lock_attachment(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<Held, db::Error> {
        self.db
            .lock(partner, format!("publish {partner} {id}"))
            .await
    }

    /// What a body comes to if the attachment does not await one any more.
    async fn existing_result(
        &self,
        partner: PartnerId,
        id: AttachmentId,
        digests: &Digests,
    ) -> Result<Option<Result<Digests, Error>>, Error> {
        let current = table::find(
            &mut *self.db.read(partner).await?,
            partner,
            id,
            self.clock.now(),
        )
        .await?;
        Ok(match current.ok_or(Error::NotFound)?.state {
            UploadState::Stored { sha256, .. } | UploadState::Rejected { sha256, .. }
                if sha256 == digests.sha256 =>
            {
                Some(Ok(digests.clone()))
            }
            UploadState::Stored { .. } | UploadState::Rejected { .. } => Some(Err(Error::Conflict)),
            UploadState::Expired => Some(Err(Error::Expired)),
            UploadState::Pending => None,
        })
    }

    async fn spool_body<E>(
        &self,
        size: u64,
        mut body: impl Stream<Item = Result<Bytes, E>> + Unpin,
        receiving: &Receiving,
        held: &mut Reservation,
    ) -> Result<Box<dyn StagedBlob>, Error> {
        let mut writer = self.blobs.create().await?;
        let mut pace = self.limits.upload_pace();
        let mut last = Instant::now();
        let mut received = 0;
        while received < size {
            let next = timeout(pace.next_chunk_timeout(), body.next())
                .await
                .map_err(|_| Error::TooSlow)?;
            let Some(Ok(chunk)) = next else {
                return Err(Error::Incomplete);
            };
            receiving.moved();
            let now = Instant::now();
            pace.moved(now - last, chunk.len());
            last = now;
            received += chunk.len() as u64;
            held.try_grow(chunk.len() as u64)?;
            self.metrics.uploaded_bytes.inc_by(chunk.len() as u64);
            writer.write(chunk).await?;
        }
        // A body framed otherwise than by its Content-Length could be longer.
        if received != size {
            return Err(Error::Incomplete);
        }
        Ok(writer.seal().await?)
    }

    /// Makes the bytes the attachment's, or puts down why they are not kept.
    async fn record_upload(
        &self,
        attachment: &Attachment,
        uploaded: Digests,
        sealed: Box<dyn StagedBlob>,
        inspected: Result<Inspected, Rejection>,
    ) -> Result<Digests, Error> {
        let (partner, id) = (attachment.partner_id, attachment.id);
        let _publishing = self.lock_attachment(partner, id).await?;
        if let Some(settled) = self.existing_result(partner, id, &uploaded).await? {
            return settled;
        }
        let (sha256, md5) = (uploaded.sha256.clone(), sealed.digests().md5.clone());
        let received = Received {
            sha256,
            md5,
            at: self.clock.now(),
        };
        let kept = match inspected {
            Ok(inspected) => {
                self.publish(attachment, sealed, received, inspected)
                    .await?
            }
            Err(refusal) => {
                let reason = refusal.to_string();
                let mark = self.db.write(partner, move |db| {
                    Box::pin(async move { table::mark_rejected(db, id, &received, &reason).await })
                });
                mark.await?
            }
        };
        // The window was swept between the check and here.
        if kept {
            Ok(uploaded)
        } else {
            Err(Error::Expired)
        }
    }

    async fn publish(
        &self,
        attachment: &Attachment,
        sealed: Box<dyn StagedBlob>,
        received: Received,
        Inspected {
            media_type,
            media_info,
        }: Inspected,
    ) -> Result<bool, Error> {
        let (id, key) = (attachment.id, attachment.uploaded_key());
        sealed
            .publish(
                &key,
                &metadata(media_type.name, &attachment.filename, attachment.tier()),
            )
            .await?;
        // If this fails the file stays without a row; the next body overwrites it, or the sweeper removes it.
        let stored = self
            .db
            .write(attachment.partner_id, move |db| {
                Box::pin(async move {
                    table::mark_stored(db, id, &received, media_type.name, media_info).await
                })
            })
            .await?;
        if !stored {
            self.blobs.remove(&key).await?;
        }
        Ok(stored)
    }
}
