//! Files that a message names by URL: fetched on every send, looked at, and stored as new attachments. All of it comes
//! before the transaction of the send; what that transaction does not take is removed again.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::judgement::Judged;
use super::{Error, Service};
use crate::blob::{BlobKey, SealedBlob};
use crate::clock::Timestamp;
use crate::db::{Connection, attachments as table, fetched_urls};
use crate::domain::attachment::{Attachment, Content};
use crate::domain::filename;
use crate::domain::part::DraftPart;
use crate::fetch::{self, Download, FetchUrl, Fetched, Validators};
use crate::id::{AttachmentId, PartnerId};
use crate::media::{self, Refusal, Route};

/// After this, a file that no transaction took is removed by the sweeper. Only a crash leaves one.
const ORPHANED_AFTER: Duration = Duration::from_hours(1);

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
    /// `None`: it has not changed since it was stored.
    sealed: Option<Box<dyn SealedBlob>>,
}

impl Service {
    /// Fetches all files that the parts name by URL, side by side, and stores them. The first failure ends the others.
    pub(super) async fn fetch_media(
        &self,
        partner: PartnerId,
        parts: &[DraftPart],
        now: Timestamp,
    ) -> Result<Vec<FetchedFile>, Error> {
        let urls = parts.iter().filter_map(|part| match part {
            DraftPart::Url(url) => Some(url),
            _ => None,
        });
        let unstored = try_join_all(urls.map(|url| self.fetch(partner, url, now))).await?;
        self.keep(unstored, now).await
    }

    /// Removes what was stored for a send that did not take it.
    pub(super) async fn discard(&self, files: &[FetchedFile]) {
        for file in files.iter().filter(|file| file.is_new()) {
            // The sweeper tries again: it was asked to when the file was stored.
            if let Err(error) = self.remove_blob(BlobKey::from(file.attachment.id)).await {
                tracing::error!(%error, "a fetched file cannot be removed; it will be tried again");
            }
        }
    }

    async fn fetch(&self, partner: PartnerId, url: &FetchUrl, now: Timestamp) -> Result<Unstored, Error> {
        let start = Instant::now();
        let fetched = self.fetch_uncounted(partner, url, now).await;
        let outcome = match &fetched {
            Ok(Unstored { sealed: Some(_), .. }) => "fetched",
            Ok(Unstored { sealed: None, .. }) => "not_modified",
            Err(Error::Fetch { source, .. }) => source.kind(),
            Err(Error::UnsupportedType(_) | Error::TypeMismatch(_)) => "refused",
            Err(_) => "error",
        };
        self.metrics.fetch(outcome, start.elapsed());
        tracing::info!(%url, outcome, milliseconds = start.elapsed().as_millis(), "fetched a media URL");
        fetched
    }

    async fn fetch_uncounted(&self, partner: PartnerId, url: &FetchUrl, now: Timestamp) -> Result<Unstored, Error> {
        let failed = |source| Error::Fetch { url: url.to_string(), source };
        let name = filename::of_url_path(url.as_url().path());
        if let Some(extension) = media::refused_extension(&name) {
            return Err(Error::UnsupportedType(format!("{url}: files named .{extension} are not supported")));
        }
        let url_hash = url.fingerprint();
        let known = fetched_urls::find(&mut *self.db.read().await?, partner, &url_hash).await?;
        let validators = known.as_ref().map(|(_, validators)| validators);
        match (self.fetcher.get(&partner.to_string(), url, validators).await.map_err(failed)?, known) {
            (Fetched::File(download), _) => {
                let validators = download.validators().cloned();
                let declared = download.content_type().and_then(media::of_content_type_header);
                let sealed = self.download(*download).await.map_err(|error| error.into_service(failed))?;
                let (sealed, judged) = self.judge(sealed, name.clone(), declared, Route::Url).await?;
                let judged = judged.map_err(|refusal| match refusal {
                    Refusal::Unsupported(reason) => Error::UnsupportedType(format!("{url}: {reason}")),
                    Refusal::Mismatch(reason) => Error::TypeMismatch(format!("{url}: {reason}")),
                })?;
                let attachment = new_attachment(partner, name, judged, sealed.as_ref(), now);
                Ok(Unstored { file: FetchedFile { attachment, url_hash, validators }, sealed: Some(sealed) })
            }
            (Fetched::NotModified, Some((earlier, validators))) => {
                let attachment =
                    Attachment { id: AttachmentId::new(), created_at: now, upload_expires_at: now, ..earlier };
                let file = FetchedFile { attachment, url_hash, validators: Some(validators) };
                Ok(Unstored { file, sealed: None })
            }
            (Fetched::NotModified, None) => Err(failed(fetch::Error::Protocol)),
        }
    }

    async fn download(&self, mut download: Download) -> Result<Box<dyn SealedBlob>, DownloadError> {
        let mut writer = self.blobs.create().await?;
        while let Some(chunk) = download.chunk().await? {
            self.metrics.fetched_bytes.inc_by(chunk.len() as u64);
            writer.write(chunk).await?;
        }
        drop(download);
        Ok(writer.seal().await?)
    }

    /// Gives the files their names in the store. Until a transaction takes them they are asked to be removed.
    async fn keep(&self, unstored: Vec<Unstored>, now: Timestamp) -> Result<Vec<FetchedFile>, Error> {
        let (files, sealed): (Vec<_>, Vec<_>) =
            unstored.into_iter().map(|unstored| (unstored.file, unstored.sealed)).unzip();
        let new: Vec<_> =
            files.iter().zip(sealed).filter_map(|(file, sealed)| Some((file.attachment.id, sealed?))).collect();
        if new.is_empty() {
            return Ok(files);
        }
        let keys: Vec<String> = new.iter().map(|(id, _)| BlobKey::from(*id).to_string()).collect();
        self.db
            .write(move |db| {
                Box::pin(async move {
                    for key in keys {
                        table::request_removal(db, &key, now + ORPHANED_AFTER, now).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await?;
        let publish = new.into_iter().map(|(id, sealed)| sealed.publish(BlobKey::from(id)));
        if let Err(error) = try_join_all(publish).await {
            self.discard(&files).await;
            return Err(error.into());
        }
        Ok(files)
    }
}

impl FetchedFile {
    fn is_new(&self) -> bool {
        self.attachment.blob_of == self.attachment.id
    }

    /// Makes the file an attachment, in the transaction of the send.
    pub(super) async fn take(self, db: &mut Connection, now: Timestamp) -> Result<Attachment, Error> {
        let Self { attachment, url_hash, validators } = self;
        let (id, partner) = (attachment.id, attachment.partner_id);
        if attachment.blob_of == id {
            table::removal_done(db, &BlobKey::from(id).to_string()).await?;
        } else if !table::is_blob_named(db, attachment.blob_of).await? {
            return Err(Error::DeletedMeanwhile);
        }
        table::insert(db, &attachment).await?;
        match validators {
            Some(validators) => fetched_urls::remember(db, partner, &url_hash, id, &validators, now).await?,
            None => fetched_urls::forget(db, partner, &url_hash).await?,
        }
        Ok(attachment)
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

fn new_attachment(
    partner: PartnerId,
    name: String,
    judged: Judged,
    sealed: &dyn SealedBlob,
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
        content: Content::Stored { sha256: digests.sha256.clone(), md5: digests.md5.clone(), at: now },
    }
}
