//! Fetches the files that a draft references by media URL (phase 3). They are inspected and staged
//! as new attachments, but not published yet.
//!
//! Every send asks the origin, as only the origin knows whether the file has changed. If it answers
//! 304, the bytes from the last fetch are reused.

use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::publish::FetchedAttachment;
use super::validate::ValidatedDraft;
use super::{Draft, Error, Sends, voice_memo};
use crate::attachments;
use crate::attachments::staging::StagedFile;
use crate::blob::StagedBlob;
use crate::budget::Reservation;
use crate::clock::Timestamp;
use crate::db::{fetched_urls, partners};
use crate::domain::attachment::{Attachment, FileRef, UploadState};
use crate::domain::fetch_url::FetchUrl;
use crate::domain::filename;
use crate::domain::part::DraftPart;
use crate::domain::tier::Tier;
use crate::domain::validators::Validators;
use crate::fetch::{self, Download, Fetched};
use crate::id::PartnerId;
use crate::media::{self, Ingest};

/// Maximum time between the lookup of an earlier file and the send's transaction that references
/// it.
const MAX_SEND_DURATION: Duration = Duration::from_mins(10);

/// A draft's fetched files, in the order of its parts.
#[derive(Debug, Default)]
pub(super) struct RemoteMedia(pub Vec<StagedFetch>);

/// A fetched file, staged as a new attachment.
#[derive(Debug)]
pub(super) struct StagedFetch {
    pub attachment: FetchedAttachment,
    /// Staged blobs to publish. Empty if the attachment shares an earlier attachment's blobs.
    pub files: Vec<StagedFile>,
    /// Reservation of the fetched bytes until a message references them. `None` after a 304.
    pub held: Option<Reservation>,
}

/// Result of fetching a media URL.
#[derive(Debug)]
enum Source {
    Fetched(Box<StagedFetch>),
    /// The URL redirected to a file of this server.
    Local(FileRef),
}

/// Values that all fetches of a send share.
#[derive(Clone, Copy, Debug)]
struct FetchContext {
    partner: PartnerId,
    as_voice_memo: bool,
    tier: Tier,
    now: Timestamp,
}

impl Sends {
    /// Fetches the files that a draft references by URL, concurrently. The first failure cancels
    /// the others. A part whose URL redirects to a file of this server is changed to reference that
    /// file.
    pub(super) async fn fetch(
        &self,
        partner: PartnerId,
        draft: &mut Draft,
        validated: &ValidatedDraft,
    ) -> Result<RemoteMedia, Error> {
        if draft.remote_files() == 0 {
            return Ok(RemoteMedia::default());
        }
        let line = &validated.target.chat.line;
        let context = FetchContext {
            partner,
            as_voice_memo: draft.voice_memo,
            tier: partners::tier_of_line(&mut *self.db.read(partner).await?, partner, line).await?,
            now: self.clock.now(),
        };
        let urls = draft.parts.iter().filter_map(|part| match part {
            DraftPart::Url(url) => Some(url),
            _ => None,
        });
        let sources = try_join_all(urls.map(|url| self.fetch_one(url, context))).await?;
        let mut fetched = Vec::with_capacity(sources.len());
        let parts = draft.parts.iter_mut();
        let remote = parts.filter(|part| matches!(part, DraftPart::Url(_)));
        for (part, source) in remote.zip(sources) {
            match source {
                Source::Fetched(file) => fetched.push(*file),
                Source::Local(file) => *part = DraftPart::OwnFile(Some(file)),
            }
        }
        Ok(RemoteMedia(fetched))
    }

    /// Fetches one file, and reports the outcome in metrics and the log.
    async fn fetch_one(&self, url: &FetchUrl, context: FetchContext) -> Result<Source, Error> {
        let start = Instant::now();
        let result = self.fetch_unreported(url, context).await;
        let outcome = match &result {
            Ok(Source::Local(_)) => "own",
            Ok(Source::Fetched(fetch)) if fetch.held.is_none() => "not_modified",
            Ok(Source::Fetched(_)) => "fetched",
            Err(error) => error.fetch_outcome(),
        };
        self.metrics.fetch(outcome, start.elapsed());
        tracing::info!(%url, outcome, milliseconds = start.elapsed().as_millis(), "fetched a media URL");
        result
    }

    async fn fetch_unreported(
        &self,
        url: &FetchUrl,
        context: FetchContext,
    ) -> Result<Source, Error> {
        let name = filename::from_url_path(url.as_url().path());
        if let Some(extension) = media::refused_extension(&name) {
            return Err(Error::UnsupportedExtension {
                url: url.to_string(),
                extension,
            });
        }
        let cached = self
            .cached_fetch(context.partner, &url.fingerprint())
            .await?;
        let validators = cached.as_ref().map(|(_, validators)| validators);
        let failed = |error| Error::from_fetch(url, error, context.as_voice_memo);
        let fetched = self
            .fetcher
            .get(&context.partner.to_string(), url, validators)
            .await
            .map_err(failed)?;
        let fetch = match (fetched, cached) {
            (Fetched::File(download), _) => {
                self.accept_download(url, name, *download, context).await?
            }
            (Fetched::NotModified, Some((earlier, validators))) => {
                self.accept_not_modified(url, earlier, validators, context)
                    .await?
            }
            (Fetched::NotModified, None) => return Err(failed(fetch::Error::Protocol)),
            (Fetched::Own(target), _) => {
                let file = self.attachments.file_urls().file_at(&target);
                let own_url = || fetch::Error::Redirected(Box::new(fetch::Error::OwnUrl));
                return file.map(Source::Local).ok_or_else(|| failed(own_url()));
            }
        };
        Ok(Source::Fetched(Box::new(fetch)))
    }

    /// Stages the file that the origin sent as a new attachment.
    async fn accept_download(
        &self,
        url: &FetchUrl,
        name: String,
        download: Download,
        context: FetchContext,
    ) -> Result<StagedFetch, Error> {
        let partner = context.partner;
        let validators = download.validators().cloned();
        let declared = download
            .content_type()
            .and_then(media::from_content_type_header);
        let temporary_bytes = self.attachments.temporary_bytes();
        let mut held = temporary_bytes.try_reserve(&partner.to_string(), 0)?;
        let (staged, permit) = self
            .stage_download(url, download, &mut held, context.as_voice_memo)
            .await?;
        let (staged, inspected) = self
            .attachments
            .inspect(partner, staged, name.clone(), declared, Ingest::Url)
            .await
            .map_err(attachments::Error::from)?;
        // The fetch permit is held until here, since it also covers the inspection.
        drop(permit);
        let inspected = inspected.map_err(|rejection| Error::from_rejection(url, rejection))?;

        let name = if name.is_empty() {
            format!("attachment.{}", inspected.media_type.extensions[0])
        } else {
            name
        };
        let state = UploadState::Stored {
            sha256: staged.digests().sha256.clone(),
            md5: staged.digests().md5.clone(),
            at: context.now,
        };
        let (media_type, size) = (inspected.media_type, staged.digests().size);
        let mut attachment = Attachment {
            media_info: inspected.media_info,
            expires_at: context.tier.expires_at(context.now),
            ..Attachment::new(partner, name, media_type, size, state, context.now)
        };
        context.check_voice_memo(&attachment)?;
        let mut files = Vec::with_capacity(2);
        if self
            .attachments
            .needs_processing(&attachment, context.as_voice_memo)
        {
            let variant = self
                .attachments
                .process_fetched(&mut attachment, &*staged)
                .await?;
            files.extend(variant);
            // Checked a second time, as decoding may have found that the file contains no audio.
            context.check_voice_memo(&attachment)?;
        }
        files.push(StagedFile::original(&attachment, staged));
        Ok(StagedFetch {
            attachment: FetchedAttachment::new(attachment, url, validators),
            files,
            held: Some(held),
        })
    }

    /// Reuses an earlier attachment's bytes, after the origin confirmed with a 304 that they are
    /// current.
    async fn accept_not_modified(
        &self,
        url: &FetchUrl,
        mut earlier: Attachment,
        validators: Validators,
        context: FetchContext,
    ) -> Result<StagedFetch, Error> {
        context.check_voice_memo(&earlier)?;
        if self
            .attachments
            .needs_processing(&earlier, context.as_voice_memo)
        {
            let (partner, id) = (context.partner, earlier.id);
            self.attachments.ensure_processed(partner, id).await?;
            let processed = self.attachments.find_stored(partner, id).await?;
            earlier = processed.ok_or(attachments::Error::Deleted)?;
            context.check_voice_memo(&earlier)?;
        }
        let (attachment, files) = self
            .attachments
            .reuse(earlier, context.tier, context.now)
            .await?;
        Ok(StagedFetch {
            attachment: FetchedAttachment::new(attachment, url, Some(validators)),
            files,
            held: None,
        })
    }

    /// Returns the attachment created when a URL was last fetched, if its blob can be reused.
    async fn cached_fetch(
        &self,
        partner: PartnerId,
        url_hash: &str,
    ) -> Result<Option<(Attachment, Validators)>, Error> {
        let mut db = self.db.read(partner).await?;
        let cached = fetched_urls::find(&mut db, partner, url_hash).await?;
        drop(db);
        // An attachment that expires during the send could not be committed, so it is not reused.
        let latest_commit = self.clock.now() + MAX_SEND_DURATION;
        let cached = cached.filter(|(attachment, _)| !attachment.is_expired(latest_commit));
        let Some((attachment, validators)) = cached else {
            return Ok(None);
        };
        let has_blob = self.attachments.has_blob(&attachment).await?;
        Ok(has_blob.then_some((attachment, validators)))
    }

    /// Streams a download into a staged blob. Returns the blob with the fetch permit.
    async fn stage_download(
        &self,
        url: &FetchUrl,
        mut download: Download,
        held: &mut Reservation,
        as_voice_memo: bool,
    ) -> Result<(Box<dyn StagedBlob>, std::sync::Arc<Reservation>), Error> {
        let failed = |error| Error::from_fetch(url, error, as_voice_memo);
        let mut writer = self.attachments.create_blob().await?;
        while let Some(chunk) = download.chunk().await.map_err(failed)? {
            self.metrics.fetched_bytes.inc_by(chunk.len() as u64);
            held.try_grow(chunk.len() as u64)
                .map_err(|refused| failed(fetch::Error::AtCapacity(refused)))?;
            writer.write(chunk).await?;
        }
        let permit = download.into_permit();
        Ok((writer.seal().await?, permit))
    }
}

impl FetchContext {
    fn check_voice_memo(self, attachment: &Attachment) -> Result<(), Error> {
        if self.as_voice_memo {
            voice_memo::check(attachment)?;
        }
        Ok(())
    }
}
