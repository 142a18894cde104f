//! Files in the form that a recipient can play, and what can be heard in them. Owns everything that decodes or encodes:
//! each bounded in time, memory and output before it begins. Knows nothing of partners, messages or the store.
//!
//! What cannot be converted is not an error of the caller's: the file is delivered as it is, under its true label.

mod ffmpeg;
mod picture;
pub mod private;
mod sound;

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::spawn_blocking;

pub use ffmpeg::{Ffmpeg, Probe};
pub use picture::MAX_PIXELS;

use crate::blob::Content;
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::domain::attachment::Sound;

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program that encodes AAC is not there.
    #[error("there is no ffmpeg")]
    NoFfmpeg,
    /// ffmpeg said no to the file.
    #[error("ffmpeg: {0}")]
    Ffmpeg(String),
    /// ffmpeg came up against a limit: that says nothing of the file.
    #[error("ffmpeg was ended: {0}")]
    Limited(String),
    /// The picture cannot be decoded, or would be too large.
    #[error("the picture cannot be decoded: {0}")]
    Picture(#[from] image::ImageError),
    /// A temporary file failed.
    #[error("temporary file: {0}")]
    Io(#[from] io::Error),
    /// A task of ours ended early.
    #[error("the conversion was stopped before it finished")]
    Stopped,
}

/// A file in another form.
#[derive(Debug)]
pub struct Converted {
    /// Its bytes, in a file without a name.
    pub file: File,
    /// The type it is delivered under.
    pub media_type: &'static str,
    /// What its name ends in, without a dot.
    pub extension: &'static str,
}

/// What was heard in a file.
#[derive(Debug)]
pub enum Heard {
    /// This.
    Sound(Sound),
    /// It is sound, but nothing of it can be decoded.
    Nothing,
    /// Nothing here decodes it, or not in time.
    Unknown,
}

/// Converts and listens.
#[derive(Debug)]
pub struct Converter {
    ffmpeg: Option<Ffmpeg>,
    folder: PathBuf,
    budget: Budget,
}

impl Converter {
    /// With ffmpeg, if there is one, and a folder for what is being worked on, which is emptied: what a crash left there
    /// is of people's files.
    ///
    /// # Errors
    /// The folder cannot be emptied or made.
    pub fn new(ffmpeg: Option<Ffmpeg>, folder: PathBuf, budget: Budget) -> io::Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self { ffmpeg, folder, budget })
    }

    /// Where files are that are being worked on.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for a permit to convert a file of a partner. After it [`Self::converts`] is certain.
    ///
    /// # Errors
    /// None was to be had in time.
    pub async fn permit(&self, partner: &str) -> Result<Reservation, AtCapacity> {
        let permit = self.budget.reserve(partner, 1).await?;
        self.ffmpeg().await;
        Ok(permit)
    }

    /// What is known of the program that encodes AAC, if there is one that works.
    pub async fn ffmpeg(&self) -> Option<&Probe> {
        self.ffmpeg.as_ref()?.probe().await.ok()
    }

    /// Whether files of this type are delivered in another form here.
    #[must_use]
    pub fn converts(&self, media_type: &str) -> bool {
        match media_type {
            "image/tiff" => true,
            "audio/x-caf" => self.ffmpeg.as_ref().is_some_and(Ffmpeg::may_work),
            _ => false,
        }
    }

    /// Converts a file of a type that is delivered in another form.
    ///
    /// # Errors
    /// It cannot be converted.
    pub async fn convert(
        &self,
        permit: &Arc<Reservation>,
        content: Box<dyn Content>,
        media_type: &str,
    ) -> Result<Converted, Error> {
        if media_type == "image/tiff" {
            let file = self.tiff_to_jpeg(permit, content).await?;
            return Ok(Converted { file, media_type: "image/jpeg", extension: "jpg" });
        }
        let file = self.ffmpeg.as_ref().ok_or(Error::NoFfmpeg)?.caf_to_m4a(&self.folder, content).await?;
        // The reference's label, although it lists audio/mp4 as a deprecated name of audio/x-m4a.
        Ok(Converted { file, media_type: "audio/mp4", extension: "m4a" })
    }

    /// Here, or what the decoder here does not know (palettes, fax group 3, Lab) with the help of ffmpeg.
    async fn tiff_to_jpeg(&self, permit: &Arc<Reservation>, mut content: Box<dyn Content>) -> Result<File, Error> {
        let (kept, folder) = (Arc::clone(permit), self.folder.clone());
        let here = spawn_blocking(move || {
            let converted = picture::to_jpeg(&mut *content, &folder);
            // The permit lasts as long as this does, although nobody may wait for it any more.
            drop(kept);
            (content, converted)
        });
        let (mut content, converted) = here.await.map_err(|_| Error::Stopped)?;
        let (Err(Error::Picture(image::ImageError::Unsupported(_))), Some(ffmpeg)) = (&converted, &self.ffmpeg) else {
            return converted;
        };
        content.rewind()?;
        let (decoded, mut content) = ffmpeg.tiff_to_pnm(&self.folder, content).await?;
        let (kept, folder) = (Arc::clone(permit), self.folder.clone());
        let there = spawn_blocking(move || {
            let converted = picture::decoded_to_jpeg(decoded, &mut *content, &folder);
            drop(kept);
            converted
        });
        there.await.map_err(|_| Error::Stopped)?
    }

    /// What can be heard in a file of this type.
    pub async fn listen(&self, permit: &Arc<Reservation>, content: Box<dyn Content>, media_type: &str) -> Heard {
        match (media_type, &self.ffmpeg) {
            ("audio/amr", Some(ffmpeg)) => ffmpeg.listen_to_amr(&self.folder, content).await,
            ("audio/amr" | "audio/x-caf", _) => Heard::Unknown,
            _ => {
                let kept = Arc::clone(permit);
                let listening = spawn_blocking(move || {
                    let heard = sound::listen(content);
                    drop(kept);
                    heard
                });
                listening.await.unwrap_or(Heard::Unknown)
            }
        }
    }
}
