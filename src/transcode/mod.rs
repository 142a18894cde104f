//! Files in the form that a recipient can play, and their waveforms. Owns which decoder is used for what and how much it
//! may take; the decoding itself happens in child processes ([`crate::sandbox`]). Knows nothing of partners, messages or
//! the store.
//!
//! A file that cannot be converted is not an error of the caller's: it is delivered as it is, under its true label.

mod ffmpeg;
pub mod strip_metadata;
mod tiff;
mod waveform;
pub mod worker;

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

pub use ffmpeg::{Ffmpeg, Probe};
pub use tiff::MAX_PIXELS;

use crate::blob::RandomAccess;
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::domain::attachment::{AudioInfo, WAVEFORM_POINTS};
use crate::sandbox::{self, Job, Limits, Run, Sandbox};

const MIB: u64 = 1024 * 1024;
/// Memory for decoding sound, in bytes.
const SOUND_MEMORY: u64 = 56 * MIB;
/// CPU time for decoding sound, in seconds for each MiB. A MiB of speech takes about one.
const SOUND_CPU_SECONDS: u64 = 5;
/// Memory for decoding a picture, in bytes: two forms of the largest with 8 bits a channel.
const PICTURE_MEMORY: u64 = 640 * MIB;
/// CPU time for a picture, in seconds. The largest takes about four.
const PICTURE_CPU_SECONDS: u64 = 10;
/// Memory for the removal of metadata, in bytes.
const STRIP_MEMORY: u64 = 48 * MIB;
/// MiB of a file that are searched for metadata in a second at the least.
const STRIP_SPEED: u64 = 5;
/// Largest JPEG that is made of a picture, in bytes.
const MAX_PICTURE: u64 = 128 * MIB;
/// ITU-T T.81 section B.1.1.3: start of image, and the first byte of the next marker.
const JPEG: &[u8] = b"\xff\xd8\xff";
/// Largest description of a sound, in bytes.
const MAX_DESCRIPTION: u64 = 64 * 1024;

/// Wall time for so much CPU time: more, because other processes run as well.
fn deadline(cpu_seconds: u64) -> Duration {
    Duration::from_secs(2 * cpu_seconds + 10)
}

/// Why a file was not converted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program that encodes AAC is not there.
    #[error("there is no ffmpeg")]
    NoFfmpeg,
    /// The file would take more than a file of its size may.
    #[error("it is not decoded: {0}")]
    OutOfBounds(String),
    /// The decoder brought no result.
    #[error(transparent)]
    Decoder(#[from] sandbox::Error),
    /// A temporary file failed.
    #[error("temporary file: {0}")]
    Io(#[from] io::Error),
    /// A task of ours ended early.
    #[error("the conversion was stopped before it finished")]
    Stopped,
}

impl Error {
    /// Whether a retry may succeed: the machine and not the file was the reason.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoFfmpeg | Self::OutOfBounds(_) => false,
            Self::Decoder(error) => !error.is_of_input(),
            Self::Io(_) | Self::Stopped => true,
        }
    }
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
#[derive(Debug, Serialize, Deserialize)]
pub enum AudioAnalysis {
    /// This.
    Sound(AudioInfo),
    /// It is sound, but nothing of it can be decoded.
    Nothing,
    /// No decoder here knows it, or it was not decoded in time.
    Unknown,
}

/// Result of the removal of private metadata.
#[derive(Debug)]
pub enum Stripped {
    /// The file to keep instead.
    File(File),
    /// There is none in it.
    Unchanged,
    /// It cannot be removed, and why.
    Refused(String),
}

/// Converts and analyses files.
#[derive(Debug)]
pub struct Converter {
    sandbox: Sandbox,
    ffmpeg: Option<Ffmpeg>,
    folder: PathBuf,
    /// One unit for each file that is being converted or analysed.
    budget: Budget,
}

impl Converter {
    /// With ffmpeg, if there is one, and a folder for what is being worked on, which is emptied: a crash leaves people's
    /// files there.
    ///
    /// # Errors
    /// The folder cannot be emptied or made.
    pub fn new(
        sandbox: Sandbox,
        ffmpeg: Option<Ffmpeg>,
        folder: PathBuf,
        budget: Budget,
    ) -> io::Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            sandbox,
            ffmpeg,
            folder,
            budget,
        })
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

    /// Converts a file of a type that is delivered in another form. Dropping the future ends the decoder.
    ///
    /// # Errors
    /// It cannot be converted.
    pub async fn convert(
        &self,
        _permit: &Reservation,
        content: Box<dyn RandomAccess>,
        media_type: &str,
    ) -> Result<Converted, Error> {
        if media_type == "image/tiff" {
            let file = self.tiff_to_jpeg(content).await?;
            return Ok(Converted {
                file,
                media_type: "image/jpeg",
                extension: "jpg",
            });
        }
        let file = self
            .ffmpeg
            .as_ref()
            .ok_or(Error::NoFfmpeg)?
            .caf_to_m4a(&self.folder, content)
            .await?;
        // ISO/IEC 14496-12 section 4.3: the first box is the file type.
        let file = Self::checked(file, 4, b"ftyp")?;
        // The reference's label, although it lists audio/mp4 as a deprecated name of audio/x-m4a.
        Ok(Converted {
            file,
            media_type: "audio/mp4",
            extension: "m4a",
        })
    }

    /// A file that a decoder wrote, if it begins as its type does: a decoder that was taken over may write anything.
    fn checked(mut file: File, at: u64, magic: &[u8]) -> Result<File, Error> {
        let mut start = vec![0; magic.len()];
        file.seek(SeekFrom::Start(at))?;
        let is_right = file.read_exact(&mut start).is_ok() && start == magic;
        file.rewind()?;
        if is_right {
            Ok(file)
        } else {
            Err(sandbox::Error::Crashed("its output is of another type".to_owned()).into())
        }
    }

    /// By our decoder; a TIFF that it does not know (palettes, fax group 3, Lab) by way of ffmpeg.
    async fn tiff_to_jpeg(&self, content: Box<dyn RandomAccess>) -> Result<File, Error> {
        let (file, content) = self.input(content).await?;
        let mut output = tempfile::tempfile_in(&self.folder)?;
        let limits = limits(PICTURE_MEMORY, PICTURE_CPU_SECONDS, MAX_PICTURE);
        let decoded = self
            .decode(worker::TIFF, None, limits, &file, &output)
            .await;
        let unsupported = i32::from(worker::EXIT_UNSUPPORTED);
        let (Err(sandbox::Error::Failed { status, .. }), Some(ffmpeg)) = (&decoded, &self.ffmpeg)
        else {
            decoded?;
            return Self::checked(output, 0, JPEG);
        };
        if *status != unsupported {
            decoded?;
        }
        let mut orientation = [0];
        output.rewind()?;
        output.read_exact(&mut orientation)?;
        let pnm = ffmpeg.tiff_to_pnm(&self.folder, content).await?;
        let output = tempfile::tempfile_in(&self.folder)?;
        self.decode(
            worker::PNM,
            Some(orientation[0].to_string()),
            limits,
            &pnm,
            &output,
        )
        .await?;
        Self::checked(output, 0, JPEG)
    }

    /// Decodes a sound of this type. Dropping the future ends the decoder.
    ///
    /// # Errors
    /// The machine, not the file, is the reason that it was not decoded.
    pub async fn analyze_audio(
        &self,
        _permit: &Reservation,
        content: Box<dyn RandomAccess>,
        media_type: &str,
    ) -> Result<AudioAnalysis, Error> {
        match (media_type, &self.ffmpeg) {
            ("audio/amr", Some(ffmpeg)) => Ok(ffmpeg.analyze_amr(&self.folder, content).await),
            ("audio/amr" | "audio/x-caf", _) => Ok(AudioAnalysis::Unknown),
            _ => {
                let (file, _) = self.input(content).await?;
                let cpu_seconds = 1 + SOUND_CPU_SECONDS * file.metadata()?.len() / MIB;
                let output = tempfile::tempfile_in(&self.folder)?;
                let limits = limits(SOUND_MEMORY, cpu_seconds, MAX_DESCRIPTION);
                match self
                    .decode(worker::WAVEFORM, None, limits, &file, &output)
                    .await
                {
                    // A decoder that was taken over may write anything.
                    Ok(()) => Ok(description(output).unwrap_or(AudioAnalysis::Nothing)),
                    Err(error) if error.is_of_input() => {
                        tracing::warn!(%error, media_type, "a sound cannot be decoded");
                        Ok(AudioAnalysis::Nothing)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Removes private metadata from a file, if it has any. The caller holds a permit of its own.
    ///
    /// # Errors
    /// The machine, not the file, is the reason that this failed.
    pub async fn strip_metadata(&self, content: Box<dyn RandomAccess>) -> Result<Stripped, Error> {
        let (file, _) = self.input(content).await?;
        let size = file.metadata()?.len();
        let output = tempfile::tempfile_in(&self.folder)?;
        let cpu_seconds = 1 + size / MIB / STRIP_SPEED;
        let limits = limits(STRIP_MEMORY, cpu_seconds, size + MIB);
        match self
            .decode(worker::STRIP_METADATA, None, limits, &file, &output)
            .await
        {
            Ok(()) if output.metadata()?.len() == 0 => Ok(Stripped::Unchanged),
            Ok(()) => Ok(Stripped::File(output)),
            // A file that cannot be cleaned must not pass.
            Err(error) if error.is_of_input() => Ok(Stripped::Refused(error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    async fn decode(
        &self,
        decoder: &str,
        argument: Option<String>,
        limits: Limits,
        input: &File,
        output: &File,
    ) -> Result<(), sandbox::Error> {
        let (input, output) = (input.try_clone()?, output.try_clone()?);
        let run = Run::Decoder(decoder.to_owned(), argument);
        let job = Job {
            limits,
            run,
            input: Some(input),
            output: Some(output),
            folder: None,
            executable: Vec::new(),
        };
        self.sandbox.run(job).await
    }

    /// The content as a file that a child can read; and the content again. What is not in a local file is copied to one.
    async fn input(
        &self,
        mut content: Box<dyn RandomAccess>,
    ) -> Result<(File, Box<dyn RandomAccess>), Error> {
        if let Some(file) = content.as_file() {
            return Ok((file.try_clone()?, content));
        }
        let folder = self.folder.clone();
        let copy = move || {
            let mut file = tempfile::tempfile_in(folder)?;
            content.rewind()?;
            io::copy(&mut content, &mut file)?;
            Ok::<_, io::Error>((file.try_clone()?, Box::new(file) as Box<dyn RandomAccess>))
        };
        Ok(spawn_blocking(copy).await.map_err(|_| Error::Stopped)??)
    }
}

fn limits(memory: u64, cpu_seconds: u64, output: u64) -> Limits {
    Limits {
        memory,
        cpu_seconds,
        output,
        deadline: deadline(cpu_seconds),
    }
}

/// Reads the description that a decoder wrote.
fn description(mut output: File) -> io::Result<AudioAnalysis> {
    output.rewind()?;
    let heard = serde_json::from_reader(output.take(MAX_DESCRIPTION))?;
    match &heard {
        AudioAnalysis::Sound(sound) if sound.waveform.len() != WAVEFORM_POINTS => {
            Err(io::ErrorKind::InvalidData.into())
        }
        _ => Ok(heard),
    }
}
