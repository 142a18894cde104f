//! What is done to a file once, when it is first sent: the form it is delivered in, and what can be heard in it.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::downloads::metadata;
use super::judgement::InspectError;
use super::{Error, Service};
use crate::blob::{self, BlobKey, Content, Metadata, SealedBlob};
use crate::budget::Reservation;
use crate::convert::{self, Converted, Converter, Heard};
use crate::db::attachments as table;
use crate::domain::attachment::{Attachment, Delivery, Sound};
use crate::domain::filename;
use crate::domain::voice_memo;
use crate::id::{AttachmentId, PartnerId};
use crate::sandbox;

/// Pieces in which a converted file goes into the store, in bytes.
const PIECE: usize = 64 * 1024;

/// What was found out, and the bytes that were made. Not stored yet.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub delivery: Option<(Delivery, Box<dyn SealedBlob>)>,
    pub sound: Option<Sound>,
    /// Whether it is sound of which nothing could be decoded.
    pub is_silent: bool,
}

impl Prepared {
    fn heard(heard: Heard) -> Self {
        let is_silent = matches!(heard, Heard::Nothing);
        let sound = if let Heard::Sound(sound) = heard { Some(sound) } else { None };
        Self { delivery: None, sound, is_silent }
    }
}

/// A blob that no transaction has come to name yet.
pub(super) struct Unnamed {
    pub key: BlobKey,
    pub metadata: Metadata,
    pub sealed: Box<dyn SealedBlob>,
}

/// The form that was made of an attachment's file.
pub(super) fn unnamed(attachment: &Attachment, made: &Delivery, sealed: Box<dyn SealedBlob>) -> Unnamed {
    Unnamed {
        key: attachment.made_key(made),
        metadata: metadata(&made.media_type, &made.filename, attachment.tier()),
        sealed,
    }
}

/// Whether an attachment must be prepared before it can be sent so.
pub(super) fn is_unprepared(converter: &Converter, attachment: &Attachment, as_voice_memo: bool) -> bool {
    // Of CAF without ffmpeg nothing can be found out here; once there is one, there is something to do.
    let listens = as_voice_memo && attachment.media_type != "audio/x-caf";
    !attachment.prepared && (listens || converter.converts(&attachment.media_type))
}

impl Service {
    /// Prepares an attachment whose bytes are stored, unless that was done. Of several callers at once one does it.
    pub(super) async fn prepare(&self, partner: PartnerId, id: AttachmentId) -> Result<(), Error> {
        let Some(attachment) = self.stored(partner, id).await? else { return Ok(()) };
        let permit = self.converter.permit(&attachment.partner_id.to_string()).await?;
        let _preparing = self.db.exclusive(partner, format!("prepare {id}")).await?;
        let stored = self.stored(partner, id).await?;
        let Some(attachment) = stored.filter(|attachment| !attachment.prepared) else { return Ok(()) };
        // Whether there is an ffmpeg may not have been known before the permit came.
        if attachment.media_type == "audio/x-caf" && !self.converter.converts(&attachment.media_type) {
            return Ok(());
        }
        let content = self.copy(&attachment).await?;
        let mut prepared =
            self.prepared(permit, Box::new(content), &attachment.filename, &attachment.media_type).await?;
        // In a bucket it has the same name each time, so it must have the same id each time: what a crash left asked to be
        // removed is then this.
        if let Some((delivery, _)) = &mut prepared.delivery {
            delivery.blob = id.made();
        }
        let (now, is_silent) = (self.clock.now(), prepared.is_silent);
        let (delivery, sealed) = prepared.delivery.unzip();
        let made = delivery.as_ref().map(|delivery| attachment.made_key(delivery));
        let asked = made.clone();
        if let (Some(delivery), Some(sealed)) = (&delivery, sealed) {
            self.publish_unnamed(partner, vec![unnamed(&attachment, delivery, sealed)]).await?;
        }
        let sound = prepared.sound;
        let marked = self
            .db
            .write(partner, move |db| {
                Box::pin(async move {
                    let marked = table::mark_prepared(db, id, delivery.as_ref(), sound.as_ref(), now).await?;
                    if let Some(key) = asked.filter(|_| marked)
                        && !table::keep_blob(db, &key.to_string()).await?
                    {
                        return Err(Error::DeletedMeanwhile);
                    }
                    if is_silent {
                        table::mark_silent(db, id).await?;
                    }
                    Ok::<_, Error>(marked)
                })
            })
            .await?;
        if let Some(key) = made.filter(|_| !marked) {
            self.discard_blobs(partner, &[key]).await;
        }
        Ok(())
    }

    /// Converts and listens. What cannot be converted is delivered as it is.
    pub(super) async fn prepared(
        &self,
        permit: Reservation,
        content: Box<dyn Content>,
        name: &str,
        media_type: &str,
    ) -> Result<Prepared, Error> {
        if !self.converter.converts(media_type) {
            let listens = voice_memo::is_sound(media_type) && size(&*content)? <= voice_memo::MAX_BYTES;
            let heard = if listens { self.listen(&permit, content, media_type).await? } else { Heard::Unknown };
            return Ok(Prepared { delivery: None, ..Prepared::heard(heard) });
        }
        let is_sound = voice_memo::is_sound(media_type);
        match self.converter.convert(&permit, content, media_type).await {
            Ok(converted) => {
                let heard = if is_sound {
                    let copy = converted.file.try_clone().map_err(blob::Error::Unreadable)?;
                    self.listen(&permit, Box::new(copy), converted.media_type).await?
                } else {
                    Heard::Unknown
                };
                Ok(Prepared { delivery: Some(self.store_converted(converted, name).await?), ..Prepared::heard(heard) })
            }
            // Not recorded: a retry may succeed.
            Err(error) if error.is_transient() => Err(InspectError::from(error).into()),
            Err(error) => {
                tracing::warn!(%error, media_type, "a file cannot be converted; it is delivered as it is");
                let is_silent = is_sound && matches!(error, convert::Error::Decoder(sandbox::Error::Failed { .. }));
                Ok(Prepared { is_silent, ..Prepared::default() })
            }
        }
    }

    async fn listen(&self, permit: &Reservation, content: Box<dyn Content>, media_type: &str) -> Result<Heard, Error> {
        Ok(self.converter.listen(permit, content, media_type).await.map_err(InspectError::from)?)
    }

    async fn store_converted(
        &self,
        converted: Converted,
        name: &str,
    ) -> Result<(Delivery, Box<dyn SealedBlob>), Error> {
        let Converted { file, media_type, extension } = converted;
        let sealed = self.seal_file(file).await?;
        let delivery = Delivery {
            filename: filename::converted(name, extension),
            media_type: media_type.to_owned(),
            size_bytes: sealed.digests().size,
            md5: sealed.digests().md5.clone(),
            blob: AttachmentId::new(),
        };
        Ok((delivery, sealed))
    }

    /// The whole file as a blob.
    pub(super) async fn seal_file(&self, mut file: File) -> Result<Box<dyn SealedBlob>, blob::Error> {
        file.seek(SeekFrom::Start(0)).map_err(blob::Error::Unreadable)?;
        let mut file = tokio::fs::File::from_std(file);
        let mut writer = self.blobs.create().await?;
        loop {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await.map_err(blob::Error::Unreadable)?;
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
            let is_there = self.stored(attachment.partner_id, attachment.id).await?.is_some();
            return Err(if is_there { Error::Lost(attachment.id) } else { Error::AttachmentNotFound });
        };
        let folder = self.converter.folder().to_owned();
        let file = tokio::task::spawn_blocking(move || tempfile::tempfile_in(folder)).await;
        let file = file.map_err(|_| blob::Error::Stopped)?;
        let mut file = tokio::fs::File::from_std(file.map_err(blob::Error::Unreadable)?);
        let size = blob.size();
        let mut stream = blob.read(0..size).await?;
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(blob::Error::of_read)?;
            file.write_all(&piece).await.map_err(blob::Error::Unreadable)?;
        }
        file.flush().await.map_err(blob::Error::Unreadable)?;
        let mut file = file.into_std().await;
        file.seek(SeekFrom::Start(0)).map_err(blob::Error::Unreadable)?;
        Ok(file)
    }

    /// Gives blobs their names in the store. Until a transaction names them they are asked to be removed.
    pub(super) async fn publish_unnamed(&self, partner: PartnerId, blobs: Vec<Unnamed>) -> Result<(), Error> {
        let now = self.clock.now();
        let keys: Vec<BlobKey> = blobs.iter().map(|blob| blob.key.clone()).collect();
        let asked = keys.clone();
        self.db
            .write(partner, move |db| {
                Box::pin(async move {
                    for key in asked {
                        table::request_removal(db, &key.to_string(), now + super::ORPHANED_AFTER, now).await?;
                    }
                    Ok::<_, Error>(())
                })
            })
            .await?;
        let publish = blobs
            .into_iter()
            .map(|Unnamed { key, metadata, sealed }| async move { sealed.publish(&key, &metadata).await });
        if let Err(error) = futures_util::future::try_join_all(publish).await {
            self.discard_blobs(partner, &keys).await;
            return Err(match error {
                // Only a copy of an earlier file can: it was deleted before it was copied.
                blob::Error::Changed => Error::DeletedMeanwhile,
                error => error.into(),
            });
        }
        Ok(())
    }

    /// Removes blobs, but for those that something came to name. The sweeper tries again: it was asked to when they were
    /// published.
    pub(super) async fn discard_blobs(&self, partner: PartnerId, keys: &[BlobKey]) {
        for key in keys {
            if let Err(error) = self.remove_unnamed(partner.into(), key).await {
                tracing::error!(%error, "a file that is not needed cannot be removed; it will be tried again");
            }
        }
    }
}

fn size(content: &dyn Content) -> Result<u64, blob::Error> {
    content.size().map_err(blob::Error::Unreadable)
}
