//! Builds variants: when a file is first sent, it is transcoded if recipients' devices cannot play
//! it, and audio is analysed.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::inspect::InspectError;
use super::staging::StagedFile;
use super::{Attachments, Error};
use crate::blob::{self, RandomAccess, StagedBlob};
use crate::budget::Reservation;
use crate::db::{Connection, attachments as table, blob_deletions};
use crate::domain::attachment::{Attachment, AudioInfo, Variant};
use crate::domain::filename;
use crate::domain::voice_memo;
use crate::id::{AttachmentId, BlobId, PartnerId};
use crate::sandbox;
use crate::transcode::{self, AudioAnalysis, Converted};

/// Number of bytes copied at a time from a converted file to the store.
const COPY_BUFFER: usize = 64 * 1024;

/// Result of processing a file for its first send. Its variant is staged but not published.
#[derive(Debug, Default)]
pub(crate) struct VariantBuild {
    pub variant: Option<(Variant, Box<dyn StagedBlob>)>,
    pub audio: Option<AudioInfo>,
    /// True for an audio file in which no sound could be decoded.
    pub is_silent: bool,
}

impl VariantBuild {
    fn from_analysis(analysis: AudioAnalysis) -> Self {
        let is_silent = matches!(analysis, AudioAnalysis::Undecodable);
        let audio = match analysis {
            AudioAnalysis::Decoded(audio) => Some(audio),
            AudioAnalysis::Undecodable | AudioAnalysis::Unknown => None,
        };
        Self {
            variant: None,
            audio,
            is_silent,
        }
    }
}

impl Attachments {
    /// Returns true if an attachment must be processed before it can be sent.
    pub(crate) fn needs_processing(&self, attachment: &Attachment, as_voice_memo: bool) -> bool {
        let media_type = attachment.media_type.as_str();
        !attachment.processed
            && self.can_process(media_type)
            && (as_voice_memo || self.converter.converts(media_type))
    }

    /// Returns false for a CAF file if ffmpeg is missing. The file then stays unprocessed, so that
    /// a later send can process it.
    fn can_process(&self, media_type: &str) -> bool {
        media_type != "audio/x-caf" || self.converter.converts(media_type)
    }

    /// Processes a stored attachment unless that was already done. Concurrent calls wait for the
    /// first one.
    pub(crate) async fn ensure_processed(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(), Error> {
        if self.find_stored(partner, id).await?.is_none() {
            return Ok(());
        }
        let permit = self.converter.permit(&partner.to_string()).await?;
        let _lock = self.db.lock(partner, format!("prepare {id}")).await?;
        let stored = self.find_stored(partner, id).await?;
        let Some(attachment) = stored.filter(|attachment| !attachment.processed) else {
            return Ok(());
        };
        // Checked a second time: while this call waited for the permit, ffmpeg may have been found
        // missing.
        if !self.can_process(&attachment.media_type) {
            return Ok(());
        }
        let content = Box::new(self.copy_to_temporary_file(&attachment).await?);
        let mut build = self.build_variant(permit, content, &attachment).await?;
        if let Some((variant, _)) = &mut build.variant {
            // In a bucket, a variant's object key is deterministic. The blob id must be
            // deterministic too, so that a deletion queued before a crash refers to the same blob.
            variant.blob_id = id.variant_blob_id();
        }
        self.record_processed(&attachment, build).await
    }

    /// Processes a fetched file before it is published. Returns its variant, if one is needed.
    pub(crate) async fn process_fetched(
        &self,
        attachment: &mut Attachment,
        staged: &dyn StagedBlob,
    ) -> Result<Option<StagedFile>, Error> {
        let partner = attachment.partner_id.to_string();
        let permit = self.converter.permit(&partner).await?;
        let build = self
            .build_variant(permit, staged.content()?, attachment)
            .await?;
        // Checked after processing, in which ffmpeg may have been found missing.
        attachment.processed = self.can_process(&attachment.media_type);
        attachment.audio = build.audio;
        if build.is_silent {
            attachment.media_info.duration_ms = None;
        }
        let Some((variant, staged)) = build.variant else {
            return Ok(None);
        };
        let file = StagedFile::variant(attachment, &variant, staged);
        attachment.variant = Some(variant);
        Ok(Some(file))
    }

    /// Publishes an attachment's variant and marks the attachment as processed.
    async fn record_processed(
        &self,
        attachment: &Attachment,
        build: VariantBuild,
    ) -> Result<(), Error> {
        let VariantBuild {
            variant,
            audio,
            is_silent,
        } = build;
        let (partner, id, now) = (attachment.partner_id, attachment.id, self.clock.now());
        let (variant, staged) = variant.unzip();
        let key = variant
            .as_ref()
            .map(|variant| attachment.variant_key(variant));
        if let (Some(variant), Some(staged)) = (&variant, staged) {
            let file = StagedFile::variant(attachment, variant, staged);
            self.publish_staged(partner, vec![file]).await?;
        }
        let published = key.clone();
        let write = self
            .db
            .transaction(partner, async move |db: &mut Connection| {
                let marked =
                    table::mark_processed(db, id, variant.as_ref(), audio.as_ref(), now).await?;
                if let Some(key) = published.filter(|_| marked)
                    && !blob_deletions::cancel(db, &key.to_string()).await?
                {
                    return Err(Error::Deleted);
                }
                if is_silent {
                    table::mark_undecodable(db, id).await?;
                }
                Ok::<_, Error>(marked)
            });
        let marked = write.await?;
        if let Some(key) = key.filter(|_| !marked) {
            self.discard_published(partner, &[key]).await;
        }
        Ok(())
    }

    /// Transcodes and analyses a file. A file that cannot be transcoded is delivered unchanged.
    pub(crate) async fn build_variant(
        &self,
        permit: Reservation,
        content: Box<dyn RandomAccess>,
        attachment: &Attachment,
    ) -> Result<VariantBuild, Error> {
        let media_type = attachment.media_type.as_str();
        let is_audio = voice_memo::is_sound(media_type);
        if !self.converter.converts(media_type) {
            let size = || content.size().map_err(blob::Error::ReadBack);
            let analysis = if is_audio && size()? <= voice_memo::MAX_BYTES {
                self.analyze_audio(&permit, content, media_type).await?
            } else {
                AudioAnalysis::Unknown
            };
            return Ok(VariantBuild::from_analysis(analysis));
        }
        match self.converter.convert(&permit, content, media_type).await {
            Ok(converted) => {
                let analysis = if is_audio {
                    let copy = converted.file.try_clone().map_err(blob::Error::ReadBack)?;
                    self.analyze_audio(&permit, Box::new(copy), converted.media_type)
                        .await?
                } else {
                    AudioAnalysis::Unknown
                };
                let variant = self
                    .stage_converted(converted, &attachment.filename)
                    .await?;
                Ok(VariantBuild {
                    variant: Some(variant),
                    ..VariantBuild::from_analysis(analysis)
                })
            }
            // A transient failure is not recorded, as a retry may succeed.
            Err(error) if error.is_transient() => Err(InspectError::from(error).into()),
            Err(error) => {
                tracing::warn!(attachment = %attachment.id, media_type, %error, "cannot transcode file; it is delivered unchanged");
                let is_undecodable = matches!(
                    error,
                    transcode::Error::Decoder(sandbox::Error::Failed { .. })
                );
                Ok(VariantBuild {
                    is_silent: is_audio && is_undecodable,
                    ..VariantBuild::default()
                })
            }
        }
    }

    async fn analyze_audio(
        &self,
        permit: &Reservation,
        content: Box<dyn RandomAccess>,
        media_type: &str,
    ) -> Result<AudioAnalysis, Error> {
        Ok(self
            .converter
            .analyze_audio(permit, content, media_type)
            .await
            .map_err(InspectError::from)?)
    }

    async fn stage_converted(
        &self,
        converted: Converted,
        name: &str,
    ) -> Result<(Variant, Box<dyn StagedBlob>), Error> {
        let Converted {
            file,
            media_type,
            extension,
        } = converted;
        let staged = self.stage_file(file).await?;
        let variant = Variant {
            filename: filename::converted(name, extension),
            media_type: media_type.to_owned(),
            size_bytes: staged.digests().size,
            md5: staged.digests().md5.clone(),
            blob_id: BlobId::new(),
        };
        Ok((variant, staged))
    }

    /// Copies a whole file into a staged blob.
    pub(super) async fn stage_file(
        &self,
        mut file: File,
    ) -> Result<Box<dyn StagedBlob>, blob::Error> {
        file.seek(SeekFrom::Start(0))
            .map_err(blob::Error::ReadBack)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut writer = self.blobs.create().await?;
        loop {
            let mut buffer = vec![0; COPY_BUFFER];
            let read = file
                .read(&mut buffer)
                .await
                .map_err(blob::Error::ReadBack)?;
            if read == 0 {
                return writer.seal().await;
            }
            buffer.truncate(read);
            writer.write(Bytes::from(buffer)).await?;
        }
    }

    /// Copies an attachment's blob to an unnamed temporary file. Decoders need random access, and
    /// the store may be remote.
    async fn copy_to_temporary_file(&self, attachment: &Attachment) -> Result<File, Error> {
        let Some(blob) = self.blobs.open(&attachment.uploaded_key()).await? else {
            let (partner, id) = (attachment.partner_id, attachment.id);
            // The blob is missing: the attachment may have been deleted after its row was read.
            let exists = self.find_stored(partner, id).await?.is_some();
            return Err(if exists {
                Error::BlobMissing(id)
            } else {
                Error::NotFound
            });
        };
        let folder = self.converter.folder().to_owned();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(|_| blob::Error::TaskFailed)?;
        let mut file = tokio::fs::File::from_std(file.map_err(blob::Error::ReadBack)?);
        let size = blob.size();
        let mut stream = blob.read(0..size).await?;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(blob::Error::from_read)?;
            file.write_all(&chunk)
                .await
                .map_err(blob::Error::ReadBack)?;
        }
        file.flush().await.map_err(blob::Error::ReadBack)?;
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0))
            .map_err(blob::Error::ReadBack)?;
        Ok(file)
    }
}
