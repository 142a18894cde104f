//! Files that a message names by URL: fetched on every send, looked at, and stored as new attachments. All of it comes
//! before the transaction of the send; what that transaction does not take is removed again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::downloads::metadata;
use super::judgement::Judged;
use super::message_files::check_voice_memo;
use super::preparation::{Unnamed, is_unprepared, unnamed};
use super::sends::Draft;
use super::{Error, Service};
use crate::blob::{BlobKey, SealedBlob};
use crate::budget::Reservation;
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, fetched_urls};
use crate::domain::attachment::{Attachment, Content, Delivery, FileRef};
use crate::domain::filename;
use crate::domain::part::DraftPart;
use crate::domain::tier::Tier;
use crate::fetch::{self, Download, FetchUrl, Fetched, Validators};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Refusal, Route};

/// No send takes longer than this from asking for its files to its transaction.
const LONGEST_SEND: Duration = Duration::from_mins(10);

/// A file that was fetched for a send, and what to remember of it.
#[derive(Clone, Debug)]
pub(super) struct FetchedFile {
    attachment: Attachment,
    url_hash: String,
    validators: Option<Validators>,
}

/// A file that was fetched and not stored yet.
struct Unstored {
    file: FetchedFile,
    /// What is to be stored: nothing, if the file has not changed since it was.
    sealed: Vec<Unnamed>,
    /// Its bytes count until a message has them.
    held: Option<Reservation>,
}

/// Where the URL of a part led.
enum Source {
    /// To a file that was fetched.
    Fetched(Box<Unstored>),
    /// By a redirect to a file that is stored here already.
    Own(FileRef),
}

/// Files that were fetched for one send, and not stored yet.
#[derive(Default)]
pub(super) struct FetchedMedia(Vec<Unstored>);

impl Service {
    /// Fetches all files that the parts name by URL, side by side. The first failure ends the others. A part whose URL
    /// redirects to a file that is stored here becomes one that names that file.
    pub(super) async fn fetch_media(
        &self,
        partner: PartnerId,
        draft: &mut Draft,
        tier: Tier,
        now: Timestamp,
    ) -> Result<FetchedMedia, Error> {
        let urls = draft.parts.iter().filter_map(|part| match part {
            DraftPart::Url(url) => Some(url),
            _ => None,
        });
        let fetches = urls.map(|url| self.fetch(partner, url, draft.voice_memo, tier, now));
        let sources = try_join_all(fetches).await?;
        let mut files = Vec::with_capacity(sources.len());
        let parts = draft.parts.iter_mut().filter(|part| matches!(part, DraftPart::Url(_)));
        for (part, source) in parts.zip(sources) {
            match source {
                Source::Fetched(file) => files.push(*file),
                Source::Own(file) => *part = DraftPart::OwnFile(Some(file)),
            }
        }
        Ok(FetchedMedia(files))
    }

    /// Removes what was stored for a send that did not take it.
    pub(super) async fn discard(&self, partner: PartnerId, files: &[FetchedFile]) {
        let keys: Vec<BlobKey> = files.iter().flat_map(FetchedFile::new_blobs).collect();
        self.discard_blobs(partner, &keys).await;
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
        let fetched = self.fetch_uncounted(partner, url, as_voice_memo, tier, now).await;
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

    async fn fetch_uncounted(
        &self,
        partner: PartnerId,
        url: &FetchUrl,
        as_voice_memo: bool,
        tier: Tier,
        now: Timestamp,
    ) -> Result<Source, Error> {
        let failed = |source: fetch::Error| match source.cause() {
            fetch::Error::TooLarge(limit) if as_voice_memo => Error::VoiceMemoTooLarge(*limit),
            _ => Error::Fetch { url: url.to_string(), source },
        };
        let name = filename::of_url_path(url.as_url().path());
        if let Some(extension) = media::refused_extension(&name) {
            return Err(Error::UnsupportedType(format!("{url}: files named .{extension} are not supported")));
        }
        let url_hash = url.fingerprint();
        let known = self.known(partner, &url_hash).await?;
        let validators = known.as_ref().map(|(_, validators)| validators);
        match (self.fetcher.get(&partner.to_string(), url, validators).await.map_err(failed)?, known) {
            (Fetched::File(download), _) => {
                let validators = download.validators().cloned();
                let declared = download.content_type().and_then(media::of_content_type_header);
                let mut held = self.budgets.temporary_bytes.try_reserve(&partner.to_string(), 0)?;
                let downloaded = self.download(*download, &mut held).await;
                let (sealed, permit) = downloaded.map_err(|error| error.into_service(failed))?;
                let (sealed, judged) = self.judge(partner, sealed, name.clone(), declared, Route::Url).await?;
                // A fetch ends when its file has been inspected.
                drop(permit);
                let judged = judged.map_err(|refusal| match refusal {
                    Refusal::Unsupported(reason) => Error::UnsupportedType(format!("{url}: {reason}")),
                    Refusal::Mismatch(reason) => Error::TypeMismatch(format!("{url}: {reason}")),
                })?;
                let mut attachment = new_attachment(partner, name, judged, sealed.as_ref(), tier, now);
                if as_voice_memo {
                    check_voice_memo(&attachment)?;
                }
                let mut blobs = Vec::new();
                if is_unprepared(&self.converter, &attachment, as_voice_memo) {
                    let permit = self.converter.permit(&partner.to_string()).await?;
                    let content = sealed.content()?;
                    let prepared = self.prepared(permit, content, &attachment.filename, &attachment.media_type).await?;
                    // Not if it turned out that there is no ffmpeg after all: there may be one later.
                    attachment.prepared = is_unprepared(&self.converter, &attachment, as_voice_memo);
                    attachment.sound = prepared.sound;
                    if prepared.is_silent {
                        attachment.measures.duration_ms = None;
                    }
                    if let Some((delivery, sealed)) = prepared.delivery {
                        blobs.push(unnamed(&attachment, &delivery, sealed));
                        attachment.delivery = Some(delivery);
                    }
                }
                if as_voice_memo {
                    check_voice_memo(&attachment)?;
                }
                blobs.push(uploaded(&attachment, sealed));
                let file = FetchedFile { attachment, url_hash, validators };
                Ok(Source::Fetched(Box::new(Unstored { file, sealed: blobs, held: Some(held) })))
            }
            (Fetched::NotModified, Some((mut earlier, validators))) => {
                if as_voice_memo {
                    check_voice_memo(&earlier)?;
                }
                if is_unprepared(&self.converter, &earlier, as_voice_memo) {
                    self.prepare(partner, earlier.id).await?;
                    earlier = self.stored(partner, earlier.id).await?.ok_or(Error::DeletedMeanwhile)?;
                    if as_voice_memo {
                        check_voice_memo(&earlier)?;
                    }
                }
                let (attachment, sealed) = self.once_more(earlier, tier, now).await?;
                let file = FetchedFile { attachment, url_hash, validators: Some(validators) };
                Ok(Source::Fetched(Box::new(Unstored { file, sealed, held: None })))
            }
            (Fetched::Own(url), _) => {
                let file = self.file_urls.file_at(&url);
                file.map(Source::Own).ok_or_else(|| failed(fetch::Error::Redirected(Box::new(fetch::Error::OwnUrl))))
            }
            (Fetched::NotModified, None) => Err(failed(fetch::Error::Protocol)),
        }
    }

    /// An earlier file as a new attachment. In a bucket it becomes an object of its own, which the new attachment's URL
    /// names; else the two share it.
    async fn once_more(
        &self,
        earlier: Attachment,
        tier: Tier,
        now: Timestamp,
    ) -> Result<(Attachment, Vec<Unnamed>), Error> {
        let (id, purge_at) = (AttachmentId::new(), tier.purge_at(now));
        let Some(bucket) = self.blobs.bucket() else {
            let shared = Attachment { id, created_at: now, upload_expires_at: now, purge_at, ..earlier };
            return Ok((shared, Vec::new()));
        };
        let copy = async |key: &BlobKey| bucket.duplicate(key).await?.ok_or(Error::DeletedMeanwhile);
        let mut sealed = vec![copy(&earlier.uploaded_key()).await?];
        if let Some(made) = &earlier.delivery {
            sealed.push(copy(&earlier.made_key(made)).await?);
        }
        let delivery = earlier.delivery.clone().map(|made| Delivery { blob: AttachmentId::new(), ..made });
        let own =
            Attachment { id, blob_of: id, created_at: now, upload_expires_at: now, purge_at, delivery, ..earlier };
        let mut sealed = sealed.into_iter();
        let mut blobs: Vec<_> = sealed.next().map(|sealed| uploaded(&own, sealed)).into_iter().collect();
        blobs.extend(own.delivery.as_ref().zip(sealed.next()).map(|(made, sealed)| unnamed(&own, made, sealed)));
        Ok((own, blobs))
    }

    /// What a URL brought the last time, if its bytes are still there to be used again.
    async fn known(&self, partner: PartnerId, url_hash: &str) -> Result<Option<(Attachment, Validators)>, Error> {
        let known = fetched_urls::find(&mut *self.db.read(partner).await?, partner, url_hash).await?;
        // One that is about to go might be gone before the message names its file.
        let soon = self.clock.now() + LONGEST_SEND;
        let known = known.filter(|(attachment, _)| !attachment.is_gone(soon));
        let Some((attachment, validators)) = known else { return Ok(None) };
        let blob = self.blobs.open(&attachment.uploaded_key()).await?;
        Ok(blob.filter(|blob| blob.size() == attachment.size_bytes).map(|_| (attachment, validators)))
    }

    async fn download(
        &self,
        mut download: Download,
        held: &mut Reservation,
    ) -> Result<(Box<dyn SealedBlob>, Arc<Reservation>), DownloadError> {
        let mut writer = self.blobs.create().await?;
        while let Some(chunk) = download.chunk().await? {
            self.metrics.fetched_bytes.inc_by(chunk.len() as u64);
            held.try_grow(chunk.len() as u64).map_err(fetch::Error::AtCapacity)?;
            writer.write(chunk).await?;
        }
        let permit = download.into_permit();
        Ok((writer.seal().await?, permit))
    }

    /// Stores the files. What keeps their bytes counted comes with them.
    pub(super) async fn keep(
        &self,
        partner: PartnerId,
        FetchedMedia(unstored): FetchedMedia,
    ) -> Result<(Vec<FetchedFile>, Vec<Reservation>), Error> {
        let (mut files, mut blobs, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for file in unstored {
            files.push(file.file);
            blobs.extend(file.sealed);
            held.extend(file.held);
        }
        if !blobs.is_empty() {
            self.publish_unnamed(partner, blobs).await?;
        }
        Ok((files, held))
    }
}

impl FetchedFile {
    fn is_new(&self) -> bool {
        self.attachment.blob_of == self.attachment.id
    }

    /// The blobs that were stored for it.
    fn new_blobs(&self) -> impl Iterator<Item = BlobKey> {
        self.attachment.keys().filter(|_| self.is_new())
    }

    /// The blobs of an earlier attachment that it shares.
    pub(super) fn shared_blobs(&self) -> impl Iterator<Item = AttachmentId> {
        let made = self.attachment.delivery.as_ref().map(|delivery| delivery.blob);
        std::iter::once(self.attachment.blob_of).chain(made).filter(|_| !self.is_new())
    }

    /// Makes the file an attachment, in the transaction of the send.
    pub(super) async fn take(self, db: &mut Connection, now: Timestamp) -> Result<Attachment, Error> {
        for key in self.new_blobs() {
            if !table::keep_blob(db, &key.to_string()).await? {
                return Err(Error::DeletedMeanwhile);
            }
        }
        if !self.are_shared_blobs_named(db).await? {
            return Err(Error::DeletedMeanwhile);
        }
        let Self { attachment, url_hash, validators } = self;
        let (id, partner) = (attachment.id, attachment.partner_id);
        table::insert(db, &attachment).await?;
        match validators {
            Some(validators) => fetched_urls::remember(db, partner, &url_hash, id, &validators, now).await?,
            None => fetched_urls::forget(db, partner, &url_hash).await?,
        }
        Ok(attachment)
    }

    /// Whether the files it shares with an earlier attachment are still there.
    async fn are_shared_blobs_named(&self, db: &mut Connection) -> Result<bool, Error> {
        for blob in self.shared_blobs() {
            if !table::is_blob_named(db, blob).await? {
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
fn uploaded(attachment: &Attachment, sealed: Box<dyn SealedBlob>) -> Unnamed {
    let metadata = metadata(&attachment.media_type, &attachment.filename, attachment.tier());
    Unnamed { key: attachment.uploaded_key(), metadata, sealed }
}

fn new_attachment(
    partner: PartnerId,
    name: String,
    judged: Judged,
    sealed: &dyn SealedBlob,
    tier: Tier,
    now: Timestamp,
) -> Attachment {
    let Judged { media_type, measures } = judged;
    let digests = sealed.digests();
    let id = AttachmentId::new();
    Attachment {
        id,
        partner_id: partner,
        filename: if name.is_empty() { format!("attachment.{}", media_type.extensions[0]) } else { name },
        declared_type: media_type.name.to_owned(),
        // There is no upload URL to sign.
        signed_type: String::new(),
        media_type: media_type.name.to_owned(),
        size_bytes: digests.size,
        created_at: now,
        upload_expires_at: now,
        blob_of: id,
        measures,
        prepared: false,
        delivery: None,
        sound: None,
        purge_at: tier.purge_at(now),
        content: Content::Stored { sha256: digests.sha256.clone(), md5: digests.md5.clone(), at: now },
    }
}
