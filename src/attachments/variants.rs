//! What is done to a file once, when it is first sent: the form it is delivered in, and what can be heard in it.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::download::metadata;
use super::inspect::InspectError;
use crate::blob::{self, BlobKey, ObjectHeaders, RandomAccess, StagedBlob};
use crate::budget::Reservation;
use crate::db::{attachments as table, blob_deletions};
use crate::domain::attachment::{Attachment, AudioInfo, Variant};
use crate::domain::filename;
use crate::domain::voice_memo;
use crate::id::{AttachmentId, BlobId, PartnerId};
use crate::sandbox;
use crate::service::{Error, Service};
use crate::transcode::{self, AudioAnalysis, Converted, Converter};

/// Pieces in which a converted file goes into the store, in bytes.
const PIECE: usize = 64 * 1024;

/// What was found out, and the bytes that were made. Not stored yet.
#[derive(Debug, Default)]
pub(crate) struct VariantBuild {
    pub variant: Option<(Variant, Box<dyn StagedBlob>)>,
    pub audio: Option<AudioInfo>,
    /// Whether it is sound of which nothing could be decoded.
    pub is_silent: bool,
}

impl VariantBuild {
    fn heard(heard: AudioAnalysis) -> Self {
        let is_silent = matches!(heard, AudioAnalysis::Nothing);
        let audio = if let AudioAnalysis::Sound(audio) = heard {
            Some(audio)
        } else {
            None
        };
        Self {
            variant: None,
            audio,
            is_silent,
        }
    }
}

/// A blob that no transaction has come to name yet.
pub(crate) struct UnpublishedBlob {
    pub key: BlobKey,
    pub metadata: ObjectHeaders,
    pub sealed: Box<dyn StagedBlob>,
}

/// The form that was made of an attachment's file.
pub(crate) fn unnamed(
    attachment: &Attachment,
    made: &Variant,
    sealed: Box<dyn StagedBlob>,
) -> UnpublishedBlob {
    UnpublishedBlob {
        key: attachment.made_key(made),
        metadata: metadata(&made.media_type, &made.filename, attachment.tier()),
        sealed,
    }
}

/// Whether an attachment must be prepared before it can be sent so.
pub(crate) fn needs_variant(
    converter: &Converter,
    attachment: &Attachment,
    as_voice_memo: bool,
) -> bool {
    // Of CAF without ffmpeg nothing can be found out here; once there is one, there is something to do.
    let listens = as_voice_memo && attachment.media_type != "audio/x-caf";
    !attachment.processed && (listens || converter.converts(&attachment.media_type))
}

impl Service {
    /// Prepares an attachment whose bytes are stored, unless that was done. Of several callers at once one does it.
    pub(crate) async fn ensure_variant(
        &self,
        partner: PartnerId,
        id: AttachmentId,
    ) -> Result<(), Error> {
        let Some(attachment) = self.stored(partner, id).await? else {
            return Ok(());
        };
        let permit = self
            .converter
            .permit(&attachment.partner_id.to_string())
            .await?;
        let _preparing = self.db.lock(partner, format!("prepare {id}")).await?;
        let stored = self.stored(partner, id).await?;
        let Some(attachment) = stored.filter(|attachment| !attachment.processed) else {
            return Ok(());
        };
        // Whether there is an ffmpeg may not have been known before the permit came.
        if attachment.media_type == "audio/x-caf"
            && !self.converter.converts(&attachment.media_type)
        {
            return Ok(());
        }
        let content = self.copy(&attachment).await?;
        let mut prepared = self
            .build_variant(
                permit,
                Box::new(content),
                &attachment.filename,
                &attachment.media_type,
            )
            .await?;
        // In a bucket it has the same name each time, so it must have the same id each time: what a crash left asked to be
        // removed is then this.
        if let Some((variant, _)) = &mut prepared.variant {
            variant.blob_id = id.variant_blob_id();
        }
        let (now, is_silent) = (self.clock.now(), prepared.is_silent);
        let (variant, sealed) = prepared.variant.unzip();
        let made = variant.as_ref().map(|variant| attachment.made_key(variant));
        let asked = made.clone();
        if let (Some(variant), Some(sealed)) = (&variant, sealed) {
            self.publish_staged(partner, vec![unnamed(&attachment, variant, sealed)])
                .await?;
        }
        let audio = prepared.audio;
        let marked = self
            .db
            .write(partner, move |db| {
                Box::pin(async move {
                    let marked =
                        table::mark_processed(db, id, variant.as_ref(), audio.as_ref(), now)
                            .await?;
                    if let Some(key) = asked.filter(|_| marked)
                        && !blob_deletions::cancel(db, &key.to_string()).await?
                    {
                        return Err(Error::AttachmentDeleted);
                    }
                    if is_silent {
                        table::mark_undecodable(db, id).await?;
                    }
                    Ok::<_, Error>(marked)
                })
            })
            .await?;
        if let Some(key) = made.filter(|_| !marked) {
            self.discard_staged(partner, &[key]).await;
        }
        Ok(())
    }

    /// Converts and listens. What cannot be converted is delivered as it is.
    pub(crate) async fn build_variant(
        &self,
        permit: Reservation,
        content: Box<dyn RandomAccess>,
        name: &str,
        media_type: &str,
    ) -> Result<VariantBuild, Error> {
        if !self.converter.converts(media_type) {
            let listens =
                voice_memo::is_sound(media_type) && size(&*content)? <= voice_memo::MAX_BYTES;
            let heard = if listens {
                self.analyze_audio(&permit, content, media_type).await?
            } else {
                AudioAnalysis::Unknown
            };
            return Ok(VariantBuild {
                variant: None,
                ..VariantBuild::heard(heard)
            });
        }
        let is_sound = voice_memo::is_sound(media_type);
        match self.converter.convert(&permit, content, media_type).await {
            Ok(converted) => {
                let heard = if is_sound {
                    let copy = converted.file.try_clone().map_err(blob::Error::ReadBack)?;
                    self.analyze_audio(&permit, Box::new(copy), converted.media_type)
                        .await?
                } else {
                    AudioAnalysis::Unknown
                };
                Ok(VariantBuild {
                    variant: Some(self.store_converted(converted, name).await?),
                    ..VariantBuild::heard(heard)
                })
            }
            // Not recorded: a retry may succeed.
            Err(error) if error.is_transient() => Err(InspectError::from(error).into()),
            Err(error) => {
                tracing::warn!(%error, media_type, "a file cannot be converted; it is delivered as it is");
                let is_silent = is_sound
                    && matches!(
                        error,
                        transcode::Error::Decoder(sandbox::Error::Failed { .. })
                    );
                Ok(VariantBuild {
                    is_silent,
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

    async fn store_converted(
        &self,
        converted: Converted,
        name: &str,
    ) -> Result<(Variant, Box<dyn StagedBlob>), Error> {
        let Converted {
            file,
            media_type,
            extension,
        } = converted;
        let sealed = self.stage_file(file).await?;
        let variant = Variant {
            filename: filename::converted(name, extension),
            media_type: media_type.to_owned(),
            size_bytes: sealed.digests().size,
            md5: sealed.digests().md5.clone(),
            blob_id: BlobId::new(),
        };
        Ok((variant, sealed))
    }

    /// The whole file as a blob.
    pub(crate) async fn stage_file(
        &self,
        mut file: File,
    ) -> Result<Box<dyn StagedBlob>, blob::Error> {
        file.seek(SeekFrom::Start(0))
            .map_err(blob::Error::ReadBack)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut writer = self.blobs.create().await?;
        loop {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await.map_err(blob::Error::ReadBack)?;
            if read == 0 {
                return writer.seal().await;
            }
            piece.truncate(read);
            writer.write(Bytes::from(piece)).await?;
        }
    }

    /// The bytes of an attachment in a temporary file without a name: the store may be far away.
    async fn copy(&self, attachment: &Attachment) -> Result<File, Error> {
        let Some(blob) = self.blobs.open(&attachment.uploaded_key()).await? else {
            // Deleted between the two looks, or lost.
            let is_there = self
                .stored(attachment.partner_id, attachment.id)
                .await?
                .is_some();
            return Err(if is_there {
                Error::BlobMissing(attachment.id)
            } else {
                Error::AttachmentNotFound
            });
        };
        let folder = self.converter.folder().to_owned();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(|_| blob::Error::TaskFailed)?;
        let mut file = tokio::fs::File::from_std(file.map_err(blob::Error::ReadBack)?);
        let size = blob.size();
        let mut stream = blob.read(0..size).await?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(blob::Error::from_read)?;
            file.write_all(&piece)
                .await
                .map_err(blob::Error::ReadBack)?;
        }
        file.flush().await.map_err(blob::Error::ReadBack)?;
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0))
            .map_err(blob::Error::ReadBack)?;
        Ok(file)
    }

    /// Gives blobs their names in the store. Until a transaction names them they are asked to be removed.
    pub(crate) async fn publish_staged(
        &self,
        partner: PartnerId,
        blobs: Vec<UnpublishedBlob>,
    ) -> Result<(), Error> {
        let now = self.clock.now();
        let keys: Vec<BlobKey> = blobs.iter().map(|blob| blob.key.clone()).collect();
        let asked = keys.clone();
        self.db
            .write(partner, move |db| {
                Box::pin(async move {
                    for key in asked {
                        blob_deletions::enqueue(
                            db,
                            &key.to_string(),
                            now + crate::service::ORPHAN_TTL,
                            now,
                        )
                        .await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await?;
        let publish = blobs.into_iter().map(
            |UnpublishedBlob {
                 key,
                 metadata,
                 sealed,
             }| async move { sealed.publish(&key, &metadata).await },
        );
        if let Err(error) = futures_util::future::try_join_all(publish).await {
            self.discard_staged(partner, &keys).await;
            return Err(match error {
                // Only a copy of an earlier file can: it was deleted before it was copied.
                blob::Error::PreconditionFailed => Error::AttachmentDeleted,
                error => error.into(),
            });
        }
        Ok(())
    }

    /// Removes blobs, but for those that something came to name. The sweeper tries again: it was asked to when they were
    /// published.
    pub(crate) async fn discard_staged(&self, partner: PartnerId, keys: &[BlobKey]) {
        for key in keys {
            if let Err(error) = self.delete_if_unreferenced(partner.into(), key).await {
                tracing::error!(%error, "a file that is not needed cannot be removed; it will be tried again");
            }
        }
    }
}

fn size(content: &dyn RandomAccess) -> Result<u64, blob::Error> {
    content.size().map_err(blob::Error::ReadBack)
}
