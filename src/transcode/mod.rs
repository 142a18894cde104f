//! Transcodes files to formats that recipients' devices can play, analyses audio, and removes
//! private metadata. Chooses the decoder and its limits for each type; the decoding itself happens
//! in sandboxed child processes ([`crate::sandbox`]). Knows nothing of partners, messages or the
//! store.
//!
//! A file that cannot be converted is delivered unchanged, under its own type.

mod config;
mod ffmpeg;
mod picture;
mod ppm;
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

pub use config::Config;
pub use ffmpeg::{Ffmpeg, Probe};
pub use picture::MAX_PIXELS;

use crate::blob::RandomAccess;
use crate::budget::{AtCapacity, Budget, Reservation};
use crate::domain::attachment::{AudioInfo, WAVEFORM_POINTS};
use crate::sandbox::{self, Job, Limits, Run, Sandbox};

const MIB: u64 = 1024 * 1024;
/// Memory limit for decoding audio, in bytes.
const AUDIO_MEMORY: u64 = 56 * MIB;
/// CPU time limit for decoding audio, in seconds per MiB. A MiB of speech takes about one second.
const AUDIO_CPU_SECONDS: u64 = 5;
/// Memory limit for converting a picture, in bytes: enough for the largest one with four 16-bit
/// channels.
const PICTURE_MEMORY: u64 = 640 * MIB;
/// CPU time limit for converting a picture, in seconds. The largest picture takes about four
/// seconds.
const PICTURE_CPU_SECONDS: u64 = 10;
/// Memory limit for removing metadata, in bytes.
const STRIP_MEMORY: u64 = 48 * MIB;
/// Minimum rate at which metadata is removed, in MiB per second; the CPU time limit follows from
/// it.
const MIN_STRIP_RATE: u64 = 5;
/// Maximum size of a converted picture in bytes.
const MAX_PICTURE: u64 = 128 * MIB;
/// First bytes of a JPEG file: the start-of-image marker and the first byte of the next marker
/// (ITU-T T.81 section B.1.1.3).
const JPEG: &[u8] = b"\xff\xd8\xff";
/// Maximum size in bytes of an audio analysis as JSON.
const MAX_ANALYSIS: u64 = 64 * 1024;

/// Returns the wall time limit for a CPU time limit. It is longer, because other processes run as
/// well.
fn deadline(cpu_seconds: u64) -> Duration {
    Duration::from_secs(2 * cpu_seconds + 10)
}

/// Reasons why a file was not converted, analysed or stripped of metadata.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ffmpeg is not installed or does not work")]
    NoFfmpeg,
    /// Decoding would exceed the limits, which is found before it starts.
    #[error("not decoded: {0}")]
    OutOfBounds(String),
    #[error(transparent)]
    Decoder(#[from] sandbox::Error),
    #[error("temporary file: {0}")]
    Io(#[from] io::Error),
    /// A blocking task panicked, or the runtime is shutting down.
    #[error("the conversion was stopped before it finished")]
    TaskFailed,
}

impl Error {
    /// Returns true if a retry may succeed, because the machine and not the file caused the error.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoFfmpeg | Self::OutOfBounds(_) => false,
            Self::Decoder(error) => !error.is_caused_by_input(),
            Self::Io(_) | Self::TaskFailed => true,
        }
    }
}

/// A transcoded file.
#[derive(Debug)]
pub struct Converted {
    /// Content of the file, in an unlinked temporary file.
    pub file: File,
    pub media_type: &'static str,
    /// Filename extension for the new type, without a dot.
    pub extension: &'static str,
}

/// Result of decoding the audio in a file.
#[derive(Debug, Serialize, Deserialize)]
pub enum AudioAnalysis {
    Decoded(AudioInfo),
    /// The audio has a supported format, but none of its frames can be decoded.
    Undecodable,
    /// No decoder supports the format, or decoding did not finish in time.
    Unknown,
}

/// Result of removing private metadata from a file.
#[derive(Debug)]
pub enum Stripped {
    /// A copy of the file without private metadata.
    File(File),
    /// The file contains no private metadata.
    Unchanged,
    /// The metadata cannot be removed; the field is the reason.
    Refused(String),
}

/// Converts and analyses files in sandboxed child processes.
#[derive(Debug)]
pub struct Converter {
    sandbox: Sandbox,
    ffmpeg: Option<Ffmpeg>,
    folder: PathBuf,
    /// Budget of concurrent conversions and analyses; each file takes one unit.
    budget: Budget,
}

impl Converter {
    /// Creates a converter that uses `folder` for temporary files. The folder is emptied first,
    /// because a crash leaves user files behind.
    ///
    /// # Errors
    /// The folder cannot be emptied or created.
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

    /// Returns the folder for temporary files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits for a permit to convert a file of a partner. Also probes `ffmpeg`, so that the answer
    /// of [`Self::converts`] is final from then on.
    ///
    /// # Errors
    /// The partner's wait queue is full, or no permit was released in time.
    pub async fn permit(&self, partner: &str) -> Result<Reservation, AtCapacity> {
        let permit = self.budget.reserve(partner, 1).await?;
        self.ffmpeg().await;
        Ok(permit)
    }

    /// Returns the version of `ffmpeg`, or `None` if it is not installed or does not work.
    pub async fn ffmpeg(&self) -> Option<&Probe> {
        self.ffmpeg.as_ref()?.probe().await.ok()
    }

    /// Returns true if files of this type are delivered in a converted form.
    #[must_use]
    pub fn converts(&self, media_type: &str) -> bool {
        match media_type {
            "image/tiff" => true,
            "audio/x-caf" => self.ffmpeg.as_ref().is_some_and(Ffmpeg::may_work),
            _ => false,
        }
    }

    /// Converts a file whose type [`Self::converts`] accepts. Dropping the future kills the decoder
    /// process.
    ///
    /// # Errors
    /// The file cannot be converted.
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
        // An M4A file starts with the file type box (ISO/IEC 14496-12 section 4.3).
        let file = Self::checked(file, 4, b"ftyp")?;
        // The type name is the one that the API reference uses, although the reference lists
        // audio/mp4 as a deprecated name of audio/x-m4a.
        Ok(Converted {
            file,
            media_type: "audio/mp4",
            extension: "m4a",
        })
    }

    /// Returns a decoder's output if it starts with the signature of its type. This is checked
    /// because a compromised decoder can write anything.
    fn checked(mut file: File, at: u64, magic: &[u8]) -> Result<File, Error> {
        let mut start = vec![0; magic.len()];
        file.seek(SeekFrom::Start(at))?;
        let has_signature = file.read_exact(&mut start).is_ok() && start == magic;
        file.rewind()?;
        if has_signature {
            Ok(file)
        } else {
            Err(sandbox::Error::Crashed("its output is of another type".to_owned()).into())
        }
    }

    /// Converts TIFF with the built-in decoder, or with `ffmpeg` if the built-in one does not
    /// support the image (palettes, fax group 3, Lab).
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
        let ppm = ffmpeg.tiff_to_ppm(&self.folder, content).await?;
        let output = tempfile::tempfile_in(&self.folder)?;
        self.decode(
            worker::PPM,
            Some(orientation[0].to_string()),
            limits,
            &ppm,
            &output,
        )
        .await?;
        Self::checked(output, 0, JPEG)
    }

    /// Decodes the audio in a file and analyses it. Dropping the future kills the decoder process.
    ///
    /// # Errors
    /// The file was not decoded for a reason other than its content.
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
                let cpu_seconds = 1 + AUDIO_CPU_SECONDS * file.metadata()?.len() / MIB;
                let output = tempfile::tempfile_in(&self.folder)?;
                let limits = limits(AUDIO_MEMORY, cpu_seconds, MAX_ANALYSIS);
                match self
                    .decode(worker::WAVEFORM, None, limits, &file, &output)
                    .await
                {
                    // Output that is not a valid analysis is not trusted: a compromised decoder can
                    // write anything.
                    Ok(()) => Ok(read_analysis(output).unwrap_or(AudioAnalysis::Undecodable)),
                    Err(error) if error.is_caused_by_input() => {
                        tracing::warn!(%error, media_type, "audio cannot be decoded");
                        Ok(AudioAnalysis::Undecodable)
                    }
                    Err(error) => Err(error.into()),
                }
            }
        }
    }

    /// Removes private metadata from a file. The caller must hold a permit for inspecting the file.
    ///
    /// # Errors
    /// The removal failed for a reason other than the content of the file.
    pub async fn strip_metadata(&self, content: Box<dyn RandomAccess>) -> Result<Stripped, Error> {
        let (file, _) = self.input(content).await?;
        let size = file.metadata()?.len();
        let output = tempfile::tempfile_in(&self.folder)?;
        let cpu_seconds = 1 + size / MIB / MIN_STRIP_RATE;
        let limits = limits(STRIP_MEMORY, cpu_seconds, size + MIB);
        match self
            .decode(worker::STRIP_METADATA, None, limits, &file, &output)
            .await
        {
            Ok(()) if output.metadata()?.len() == 0 => Ok(Stripped::Unchanged),
            Ok(()) => Ok(Stripped::File(output)),
            // A file whose metadata cannot be removed is not accepted (fail closed).
            Err(error) if error.is_caused_by_input() => Ok(Stripped::Refused(error.to_string())),
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

    /// Returns the content twice: as a file that a child process can read, and as it was passed in.
    /// It is copied to a temporary file unless it is in a local file already.
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
        Ok(spawn_blocking(copy)
            .await
            .map_err(|_| Error::TaskFailed)??)
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

/// Reads and validates the audio analysis that a decoder process wrote.
fn read_analysis(mut output: File) -> io::Result<AudioAnalysis> {
    output.rewind()?;
    let analysis = serde_json::from_reader(output.take(MAX_ANALYSIS))?;
    match &analysis {
        AudioAnalysis::Decoded(audio) if audio.waveform.len() != WAVEFORM_POINTS => {
            Err(io::ErrorKind::InvalidData.into())
        }
        _ => Ok(analysis),
    }
}
