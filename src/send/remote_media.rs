//! Files that a message names by URL: fetched on every send, looked at, and stored as new attachments. All of it comes
//! before the transaction of the send; what that transaction does not take is removed again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::Draft;
use super::parts::check_voice_memo;
use crate::attachments::download::metadata;
use crate::attachments::inspect::Inspected;
use crate::attachments::variants::{UnpublishedBlob, needs_variant, unnamed};
use crate::blob::{BlobKey, StagedBlob};
use crate::budget::Reservation;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, blob_deletions, fetched_urls};
use crate::domain::attachment::{Attachment, FileRef, UploadState, Variant};
use crate::domain::filename;
use crate::domain::part::DraftPart;
use crate::domain::tier::Tier;
use crate::fetch::{self, Download, FetchUrl, Fetched, Validators};
use crate::id::{AttachmentId, BlobId, PartnerId};
use crate::media::{self, Ingest, Rejection};
use crate::service::{Error, Service};

/// No send takes longer than this from asking for its files to its transaction.
const MAX_SEND: Duration = Duration::from_mins(10);

/// A file that was fetched for a send, and what to remember of it.
#[derive(Clone, Debug)]
pub(crate) struct FetchedAttachment {
    attachment: Attachment,
    url_hash: String,
    validators: Option<Validators>,
}

/// A file that was fetched and not stored yet.
struct StagedFetch {
    file: FetchedAttachment,
    /// What is to be stored: nothing, if the file has not changed since it was.
    sealed: Vec<UnpublishedBlob>,
    /// Its bytes count until a message has them.
    held: Option<Reservation>,
}

/// Where the URL of a part led.
enum Source {
    /// To a file that was fetched.
    Fetched(Box<StagedFetch>),
    /// By a redirect to a file that is stored here already.
    Own(FileRef),
}

/// Files that were fetched for one send, and not stored yet.
#[derive(Default)]
pub(crate) struct RemoteMedia(Vec<StagedFetch>);

impl Service {
    /// Fetches all files that the parts name by URL, side by side. The first failure ends the others. A part whose URL
    /// redirects to a file that is stored here becomes one that names that file.
    pub(crate) async fn fetch_media(
        &self,
        partner: PartnerId,
        draft: &mut Draft,
        tier: Tier,
        now: Timestamp,
    ) -> Result<RemoteMedia, Error> {
        let urls = draft.parts.iter().filter_map(|part| match part {
            DraftPart::Url(url) => Some(url),
            _ => None,
        });
        let fetches = urls.map(|url| self.fetch(partner, url, draft.voice_memo, tier, now));
        let sources = try_join_all(fetches).await?;
        let mut files = Vec::with_capacity(sources.len());
        let parts = draft
            .parts
            .iter_mut()
            .filter(|part| matches!(part, DraftPart::Url(_)));
        for (part, source) in parts.zip(sources) {
            match source {
                Source::Fetched(file) => files.push(*file),
                Source::Own(file) => *part = DraftPart::OwnFile(Some(file)),
            }
        }
        Ok(RemoteMedia(files))
    }

    /// Removes what was stored for a send that did not take it.
    pub(crate) async fn discard(&self, partner: PartnerId, files: &[FetchedAttachment]) {
        let keys: Vec<BlobKey> = files
            .iter()
            .flat_map(FetchedAttachment::new_blobs)
            .collect();
        self.discard_staged(partner, &keys).await;
    }

    async fn fetch(
        &self,
        partner: PartnerId,
        url: &FetchUrl,
        as_voice_memo: bool,
        tier: Tier,
        now: Timestamp,
    ) -> Result<Source, Error> {
        let start = Instant::now();
        let fetched = self
            .fetch_inner(partner, url, as_voice_memo, tier, now)
            .await;
        let outcome = match &fetched {
            Ok(Source::Own(_)) => "own",
            Ok(Source::Fetched(unstored)) if unstored.held.is_none() => "not_modified",
            Ok(Source::Fetched(_)) => "fetched",
            Err(Error::Fetch { source, .. }) => source.kind(),
            Err(Error::UnsupportedType(_) | Error::TypeMismatch(_)) => "refused",
            Err(Error::VoiceMemoTooLarge(_)) => "too_large",
            Err(Error::AtCapacity(_)) => "at_capacity",
            Err(_) => "error",
        };
        self.metrics.fetch(outcome, start.elapsed());
        tracing::info!(%url, outcome, milliseconds = start.elapsed().as_millis(), "fetched a media URL");
        fetched
    }

    async fn fetch_inner(
        &self,
        partner: PartnerId,
        url: &FetchUrl,
        as_voice_memo: bool,
        tier: Tier,
        now: Timestamp,
    ) -> Result<Source, Error> {
        let failed = |source: fetch::Error| match source.cause() {
            fetch::Error::TooLarge(limit) if as_voice_memo => Error::VoiceMemoTooLarge(*limit),
            _ => Error::Fetch {
                url: url.to_string(),
                source,
            },
        };
        let name = filename::from_url_path(url.as_url().path());
        if let Some(extension) = media::refused_extension(&name) {
            return Err(Error::UnsupportedType(format!(
                "{url}: files named .{extension} are not supported"
            )));
        }
        let url_hash = url.fingerprint();
        let known = self.cached_fetch(partner, &url_hash).await?;
        let validators = known.as_ref().map(|(_, validators)| validators);
        match (
            self.fetcher
                .get(&partner.to_string(), url, validators)
                .await
                .map_err(failed)?,
            known,
        ) {
            (Fetched::File(download), _) => {
                let validators = download.validators().cloned();
                let declared = download
                    .content_type()
                    .and_then(media::from_content_type_header);
                let mut held = self
                    .budgets
                    .temporary_bytes
                    .try_reserve(&partner.to_string(), 0)?;
                let downloaded = self.download(*download, &mut held).await;
                let (sealed, permit) = downloaded.map_err(|error| error.into_service(failed))?;
                let (sealed, inspected) = self
                    .inspect(partner, sealed, name.clone(), declared, Ingest::Url)
                    .await?;
                // A fetch ends when its file has been inspected.
                drop(permit);
                let inspected = inspected.map_err(|refusal| match refusal {
                    Rejection::Unsupported(reason) => {
                        Error::UnsupportedType(format!("{url}: {reason}"))
                    }
                    Rejection::Mismatch(reason) => Error::TypeMismatch(format!("{url}: {reason}")),
                })?;
                let mut attachment =
                    new_attachment(partner, name, inspected, sealed.as_ref(), tier, now);
                if as_voice_memo {
                    check_voice_memo(&attachment)?;
                }
                let mut blobs = Vec::new();
                if needs_variant(&self.converter, &attachment, as_voice_memo) {
                    let permit = self.converter.permit(&partner.to_string()).await?;
                    let content = sealed.content()?;
                    let prepared = self
                        .build_variant(
                            permit,
                            content,
                            &attachment.filename,
                            &attachment.media_type,
                        )
                        .await?;
                    // Not if it turned out that there is no ffmpeg after all: there may be one later.
                    attachment.processed =
                        needs_variant(&self.converter, &attachment, as_voice_memo);
                    attachment.audio = prepared.audio;
                    if prepared.is_silent {
                        attachment.media_info.duration_ms = None;
                    }
                    if let Some((variant, sealed)) = prepared.variant {
                        blobs.push(unnamed(&attachment, &variant, sealed));
                        attachment.variant = Some(variant);
                    }
                }
                if as_voice_memo {
                    check_voice_memo(&attachment)?;
                }
                blobs.push(uploaded(&attachment, sealed));
                let file = FetchedAttachment {
                    attachment,
                    url_hash,
                    validators,
                };
                Ok(Source::Fetched(Box::new(StagedFetch {
                    file,
                    sealed: blobs,
                    held: Some(held),
                })))
            }
            (Fetched::NotModified, Some((mut earlier, validators))) => {
                if as_voice_memo {
                    check_voice_memo(&earlier)?;
                }
                if needs_variant(&self.converter, &earlier, as_voice_memo) {
                    self.ensure_variant(partner, earlier.id).await?;
                    earlier = self
                        .stored(partner, earlier.id)
                        .await?
                        .ok_or(Error::AttachmentDeleted)?;
                    if as_voice_memo {
                        check_voice_memo(&earlier)?;
                    }
                }
                let (attachment, sealed) = self.reuse_attachment(earlier, tier, now).await?;
                let file = FetchedAttachment {
                    attachment,
                    url_hash,
                    validators: Some(validators),
                };
                Ok(Source::Fetched(Box::new(StagedFetch {
                    file,
                    sealed,
                    held: None,
                })))
            }
            (Fetched::Own(url), _) => {
                let file = self.file_urls.file_at(&url);
                file.map(Source::Own)
                    .ok_or_else(|| failed(fetch::Error::Redirected(Box::new(fetch::Error::OwnUrl))))
            }
            (Fetched::NotModified, None) => Err(failed(fetch::Error::Protocol)),
        }
    }

    /// An earlier file as a new attachment. In a bucket it becomes an object of its own, which the new attachment's URL
    /// names; else the two share it.
    async fn reuse_attachment(
        &self,
        earlier: Attachment,
        tier: Tier,
        now: Timestamp,
    ) -> Result<(Attachment, Vec<UnpublishedBlob>), Error> {
        let (id, expires_at) = (AttachmentId::new(), tier.expires_at(now));
        let Some(bucket) = self.blobs.bucket() else {
            let shared = Attachment {
                id,
                created_at: now,
                upload_expires_at: now,
                expires_at,
                ..earlier
            };
            return Ok((shared, Vec::new()));
        };
        let copy = async |key: &BlobKey| {
            bucket
                .staged_copy(key)
                .await?
                .ok_or(Error::AttachmentDeleted)
        };
        let mut sealed = vec![copy(&earlier.uploaded_key()).await?];
        if let Some(made) = &earlier.variant {
            sealed.push(copy(&earlier.made_key(made)).await?);
        }
        let variant = earlier.variant.clone().map(|made| Variant {
            blob_id: BlobId::new(),
            ..made
        });
        let own = Attachment {
            id,
            blob_id: id.blob_id(),
            created_at: now,
            upload_expires_at: now,
            expires_at,
            variant,
            ..earlier
        };
        let mut sealed = sealed.into_iter();
        let mut blobs: Vec<_> = sealed
            .next()
            .map(|sealed| uploaded(&own, sealed))
            .into_iter()
            .collect();
        blobs.extend(
            own.variant
                .as_ref()
                .zip(sealed.next())
                .map(|(made, sealed)| unnamed(&own, made, sealed)),
        );
        Ok((own, blobs))
    }

    /// What a URL brought the last time, if its bytes are still there to be used again.
    async fn cached_fetch(
        &self,
        partner: PartnerId,
        url_hash: &str,
    ) -> Result<Option<(Attachment, Validators)>, Error> {
        let known =
            fetched_urls::find(&mut *self.db.read(partner).await?, partner, url_hash).await?;
        // One that is about to go might be gone before the message names its file.
        let soon = self.clock.now() + MAX_SEND;
        let known = known.filter(|(attachment, _)| !attachment.is_expired(soon));
        let Some((attachment, validators)) = known else {
            return Ok(None);
        };
        let blob = self.blobs.open(&attachment.uploaded_key()).await?;
        Ok(blob
            .filter(|blob| blob.size() == attachment.size_bytes)
            .map(|_| (attachment, validators)))
    }

    async fn download(
        &self,
        mut download: Download,
        held: &mut Reservation,
    ) -> Result<(Box<dyn StagedBlob>, Arc<Reservation>), DownloadError> {
        let mut writer = self.blobs.create().await?;
        while let Some(chunk) = download.chunk().await? {
            self.metrics.fetched_bytes.inc_by(chunk.len() as u64);
            held.try_grow(chunk.len() as u64)
                .map_err(fetch::Error::AtCapacity)?;
            writer.write(chunk).await?;
        }
        let permit = download.into_permit();
        Ok((writer.seal().await?, permit))
    }

    /// Stores the files. What keeps their bytes counted comes with them.
    pub(crate) async fn publish_all(
        &self,
        partner: PartnerId,
        RemoteMedia(unstored): RemoteMedia,
    ) -> Result<(Vec<FetchedAttachment>, Vec<Reservation>), Error> {
        let (mut files, mut blobs, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for file in unstored {
            files.push(file.file);
            blobs.extend(file.sealed);
            held.extend(file.held);
        }
        if !blobs.is_empty() {
            self.publish_staged(partner, blobs).await?;
        }
        Ok((files, held))
    }
}

impl FetchedAttachment {
    /// The blobs that were stored for it.
    fn new_blobs(&self) -> impl Iterator<Item = BlobKey> {
        self.attachment
            .keys()
            .filter(|_| self.attachment.owns_blob())
    }

    /// The blobs of an earlier attachment that it shares.
    pub(crate) fn shared_blobs(&self) -> impl Iterator<Item = BlobId> {
        let made = self
            .attachment
            .variant
            .as_ref()
            .map(|variant| variant.blob_id);
        std::iter::once(self.attachment.blob_id)
            .chain(made)
            .filter(|_| !self.attachment.owns_blob())
    }

    /// Makes the file an attachment, in the transaction of the send.
    pub(crate) async fn attach(
        self,
        db: &mut Connection,
        now: Timestamp,
    ) -> Result<Attachment, Error> {
        for key in self.new_blobs() {
            if !blob_deletions::cancel(db, &key.to_string()).await? {
                return Err(Error::AttachmentDeleted);
            }
        }
        if !self.shared_blobs_exist(db).await? {
            return Err(Error::AttachmentDeleted);
        }
        let Self {
            attachment,
            url_hash,
            validators,
        } = self;
        let (id, partner) = (attachment.id, attachment.partner_id);
        table::insert(db, &attachment).await?;
        match validators {
            Some(validators) => {
                fetched_urls::upsert(db, partner, &url_hash, id, &validators, now).await?;
            }
            None => fetched_urls::delete(db, partner, &url_hash).await?,
        }
        Ok(attachment)
    }

    /// Whether the files it shares with an earlier attachment are still there.
    async fn shared_blobs_exist(&self, db: &mut Connection) -> Result<bool, Error> {
        for blob in self.shared_blobs() {
            if !table::is_referenced(db, blob).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Why a body did not get here.
#[derive(Debug, thiserror::Error)]
enum DownloadError {
    #[error(transparent)]
    Fetch(#[from] fetch::Error),
    #[error(transparent)]
    Blob(#[from] crate::blob::Error),
}

impl DownloadError {
    fn into_service(self, failed: impl FnOnce(fetch::Error) -> Error) -> Error {
        match self {
            Self::Fetch(error) => failed(error),
            Self::Blob(error) => Error::Blob(error),
        }
    }
}

/// The file of an attachment as it came.
fn uploaded(attachment: &Attachment, sealed: Box<dyn StagedBlob>) -> UnpublishedBlob {
    let metadata = metadata(
        &attachment.media_type,
        &attachment.filename,
        attachment.tier(),
    );
    UnpublishedBlob {
        key: attachment.uploaded_key(),
        metadata,
        sealed,
    }
}

fn new_attachment(
    partner: PartnerId,
    name: String,
    inspected: Inspected,
    sealed: &dyn StagedBlob,
    tier: Tier,
    now: Timestamp,
) -> Attachment {
    let Inspected {
        media_type,
        media_info,
    } = inspected;
    let digests = sealed.digests();
    let id = AttachmentId::new();
    Attachment {
        id,
        partner_id: partner,
        filename: if name.is_empty() {
            format!("attachment.{}", media_type.extensions[0])
        } else {
            name
        },
        declared_type: media_type.name.to_owned(),
        // There is no upload URL to sign.
        signed_type: String::new(),
        media_type: media_type.name.to_owned(),
        size_bytes: digests.size,
        created_at: now,
        upload_expires_at: now,
        blob_id: id.blob_id(),
        media_info,
        processed: false,
        variant: None,
        audio: None,
        expires_at: tier.expires_at(now),
        state: UploadState::Stored {
            sha256: digests.sha256.clone(),
            md5: digests.md5.clone(),
            at: now,
        },
    }
}
