//! Runs `ffmpeg` for codecs that have no built-in encoder or decoder. The program runs in the
//! sandbox, in a folder that holds only the input file. The input format is set explicitly, no
//! protocol other than `file` is allowed, and the amount of output is bounded before the program
//! starts.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::task::spawn_blocking;

use super::waveform::Peaks;
use super::{AudioAnalysis, Error};
use crate::blob::RandomAccess;
use crate::domain::attachment::AudioInfo;
use crate::media;
use crate::sandbox::{self, Job, Limits, Run, Sandbox};

/// Address space limit in bytes. `ffmpeg` maps about 300 MiB at startup.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// Maximum size of the output file in bytes.
const MAX_OUTPUT: u64 = 128 * 1024 * 1024;
/// CPU time limit in seconds, the same for every file. One more second is added per [`MIN_SPEED`]
/// seconds of audio.
const CPU_SECONDS: u64 = 5;
/// Minimum encoding speed, in seconds of audio per second of CPU time. Common machines reach 50 to
/// 100.
const MIN_SPEED: u64 = 20;
/// Maximum duration of audio that is converted or decoded.
const MAX_DURATION: Duration = Duration::from_hours(2);
/// Accepted sample rates in Hz. Lower rates are rejected, because resampling would multiply the
/// number of samples.
const SAMPLE_RATES: std::ops::RangeInclusive<f64> = 4000.0..=384_000.0;
/// Maximum number of audio frames per byte of a file. Speech at 6 kbit/s has 64 frames per byte,
/// and Opus in one-byte packets has 5,760.
const MAX_FRAMES_PER_BYTE: f64 = 128.0;
/// Folders of programs and libraries that the sandbox makes readable, in addition to `ffmpeg`'s own
/// folder.
const SYSTEM_FOLDERS: [&str; 8] = [
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
];

/// Options that describe the input, so that `ffmpeg` does not have to guess its format.
struct InputFormat<'a> {
    /// Name of the `ffmpeg` demuxer.
    demuxer: &'a str,
    /// Stream specifier of the stream to decode.
    stream: &'a str,
    options: &'a [&'a str],
}

const CAF: InputFormat<'_> = InputFormat {
    demuxer: "caf",
    stream: "0:a:0",
    options: &[],
};
const AMR: InputFormat<'_> = InputFormat {
    demuxer: "amr",
    stream: "0:a:0",
    options: &[],
};

/// The `ffmpeg` program. It is probed on first use, so that startup does not wait for it.
#[derive(Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    sandbox: Sandbox,
    probe: OnceCell<Result<Probe, String>>,
}

/// Result of running `ffmpeg -version`.
#[derive(Clone, Debug)]
pub struct Probe {
    pub version: String,
}

impl Ffmpeg {
    /// Finds the `ffmpeg` program by its path, or by its name in `PATH`.
    ///
    /// # Errors
    /// There is no such file.
    pub fn find(program: &Path, sandbox: Sandbox) -> Result<Self, String> {
        let found = if program.components().count() > 1 {
            program.to_owned()
        } else {
            in_path(program)?
        };
        // The path is made absolute, because the child process has another working directory.
        let found = found
            .canonicalize()
            .map_err(|error| format!("cannot find {}: {error}", program.display()))?;
        Ok(Self {
            program: found,
            sandbox,
            probe: OnceCell::new(),
        })
    }

    /// Returns the version of `ffmpeg`. The program is run for this only once.
    ///
    /// # Errors
    /// The program cannot be run in the sandbox, or is not `ffmpeg`.
    pub async fn probe(&self) -> Result<&Probe, &str> {
        let probe = self.probe.get_or_init(|| self.read_version()).await;
        probe.as_ref().map_err(String::as_str)
    }

    /// Returns false if a probe has failed, and true if it has succeeded or has not been made yet.
    pub(super) fn may_work(&self) -> bool {
        self.probe.get().is_none_or(Result::is_ok)
    }

    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Converts CAF to M4A. AAC is copied; other codecs are re-encoded as AAC.
    pub(super) async fn caf_to_m4a(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<File, Error> {
        let (input, duration) = Input::from_caf(parent, content).await?;
        // The first chunk of a CAF file names the codec (Apple Core Audio Format Specification,
        // "Audio Description Chunk").
        let codec = if input.head[28..32] == *b"aac " {
            "copy"
        } else {
            "aac"
        };
        let limits = limits(duration);
        let output = ["-c:a", codec, "-movflags", "+faststart", "-f", "ipod"];
        let file = self.run(&input.folder, limits, &CAF, &output).await;
        match file {
            // The M4A container does not support this kind of AAC, so it is re-encoded.
            Err(Error::Decoder(sandbox::Error::Failed { .. })) if codec == "copy" => {
                let output = ["-c:a", "aac", "-movflags", "+faststart", "-f", "ipod"];
                self.run(&input.folder, limits, &CAF, &output).await
            }
            file => file,
        }
    }

    /// Converts the first page of a TIFF image to PPM.
    pub(super) async fn tiff_to_ppm(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<File, Error> {
        let input = Input::copy(parent, content).await?;
        let pixels = super::MAX_PIXELS.to_string();
        let picture = InputFormat {
            demuxer: "tiff_pipe",
            stream: "0:v:0",
            options: &["-max_pixels", &pixels],
        };
        let output = ["-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe"];
        // Decoding the largest picture takes as long as converting a minute of audio.
        self.run(
            &input.folder,
            limits(Duration::from_mins(1)),
            &picture,
            &output,
        )
        .await
    }

    /// Decodes AMR with `ffmpeg`, because there is no built-in decoder, and returns its audio
    /// analysis.
    pub(super) async fn analyze_amr(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> AudioAnalysis {
        match self.decode_amr(parent, content).await {
            Ok(Some(audio)) => AudioAnalysis::Decoded(audio),
            Ok(None) | Err(Error::Decoder(sandbox::Error::Failed { .. })) => {
                AudioAnalysis::Undecodable
            }
            Err(error) => {
                tracing::warn!(%error, "an AMR file was not decoded and has no waveform");
                AudioAnalysis::Unknown
            }
        }
    }

    async fn decode_amr(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<Option<AudioInfo>, Error> {
        let input = Input::copy(parent, content).await?;
        // The magic number distinguishes wideband AMR from narrowband (RFC 4867 section 5.1).
        let sample_rate = if input.head.starts_with(b"#!AMR-WB") {
            16_000
        } else {
            8_000
        };
        let rate = sample_rate.to_string();
        let output = ["-ac", "1", "-ar", &rate, "-f", "s16le"];
        let file = self
            .run(&input.folder, limits(MAX_DURATION), &AMR, &output)
            .await?;
        let peaks = move || -> io::Result<Option<AudioInfo>> {
            let (mut peaks, mut reader, mut sample) =
                (Peaks::default(), BufReader::new(file), [0; 2]);
            while reader.read_exact(&mut sample).is_ok() {
                peaks.push(f32::from(i16::from_le_bytes(sample)).abs() / f32::from(i16::MAX));
            }
            Ok(peaks.waveform().map(|waveform| AudioInfo {
                channels: 1,
                sample_rate,
                waveform,
            }))
        };
        Ok(spawn_blocking(peaks)
            .await
            .map_err(|_| Error::TaskFailed)??)
    }

    /// Runs `ffmpeg` on the file `in` in `folder`, and opens the output file.
    async fn run(
        &self,
        folder: &TempDir,
        limits: Limits,
        input: &InputFormat<'_>,
        output: &[&str],
    ) -> Result<File, Error> {
        self.probe().await.map_err(|_| Error::NoFfmpeg)?;
        let max_duration = MAX_DURATION.as_secs().to_string();
        let mut arguments = vec![
            "-nostdin",
            "-hide_banner",
            "-loglevel",
            "error",
            "-y",
            "-threads",
            "1",
        ];
        // Protection against SSRF and local file inclusion: with a fixed demuxer and only the
        // protocol `file`, nothing in the input can refer to another file or host.
        arguments.extend(["-protocol_whitelist", "file", "-f", input.demuxer]);
        arguments.extend(input.options);
        arguments.extend([
            "-i",
            "in",
            "-map",
            input.stream,
            "-sn",
            "-dn",
            "-map_metadata",
            "-1",
            "-bitexact",
        ]);
        arguments.extend(["-threads", "1", "-t", &max_duration]);
        arguments.extend(output);
        arguments.push("out");
        let run = Run::Program(
            self.program.clone(),
            arguments.into_iter().map(OsString::from).collect(),
        );
        let folder = folder.path();
        let executable = self.executable();
        self.sandbox
            .run(Job {
                limits,
                run,
                input: None,
                output: None,
                folder: Some(folder),
                executable,
            })
            .await?;
        let file = File::open(folder.join("out"))?;
        if file.metadata()?.len() == 0 {
            return Err(sandbox::Error::Failed {
                status: 0,
                message: "ffmpeg wrote nothing".to_owned(),
            }
            .into());
        }
        Ok(file)
    }

    fn executable(&self) -> Vec<PathBuf> {
        let own = self.program.parent().map(Path::to_owned);
        SYSTEM_FOLDERS
            .iter()
            .map(PathBuf::from)
            .chain(own)
            .collect()
    }

    async fn read_version(&self) -> Result<Probe, String> {
        let cannot = |problem: String| format!("cannot run {}: {problem}", self.program.display());
        let mut output = tempfile::tempfile().map_err(|error| cannot(error.to_string()))?;
        let version = async {
            let job = Job {
                limits: limits(Duration::ZERO),
                run: Run::Program(self.program.clone(), vec!["-version".into()]),
                input: None,
                output: Some(output.try_clone()?),
                folder: None,
                executable: self.executable(),
            };
            self.sandbox.run(job).await?;
            let mut text = String::new();
            output.rewind()?;
            (&output).take(1000).read_to_string(&mut text)?;
            Ok::<_, sandbox::Error>(text)
        };
        let text = version.await.map_err(|error| cannot(error.to_string()))?;
        let version = text
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("ffmpeg version "));
        let version = version.and_then(|rest| rest.split(' ').next());
        let version = version
            .ok_or_else(|| cannot("it is not ffmpeg".to_owned()))?
            .to_owned();
        Ok(Probe { version })
    }
}

/// Returns the process limits for converting audio of this duration.
fn limits(duration: Duration) -> Limits {
    let cpu_seconds = CPU_SECONDS + duration.as_secs() / MIN_SPEED;
    Limits {
        memory: MEMORY,
        cpu_seconds,
        output: MAX_OUTPUT,
        deadline: super::deadline(cpu_seconds),
    }
}

/// Copy of the input in a folder of its own, with its first bytes.
struct Input {
    folder: TempDir,
    head: [u8; 64],
}

impl Input {
    async fn copy(parent: &Path, mut content: Box<dyn RandomAccess>) -> Result<Self, Error> {
        let parent = parent.to_owned();
        let copy = move || {
            let folder = tempfile::tempdir_in(parent)?;
            let path = folder.path().join("in");
            content.rewind()?;
            io::copy(&mut content, &mut File::create(&path)?)?;
            let mut head = [0; 64];
            let _ = File::open(&path)?.read(&mut head)?;
            Ok::<_, io::Error>(Self { folder, head })
        };
        Ok(spawn_blocking(copy)
            .await
            .map_err(|_| Error::TaskFailed)??)
    }

    /// Copies a CAF file after checking its duration and sample rate. Returns the copy and the
    /// duration.
    async fn from_caf(
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<(Self, Duration), Error> {
        let input = Self::copy(parent, content).await?;
        let path = input.folder.path().join("in");
        let probe = move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            let caf = media::by_extension("caf").expect("CAF is an accepted type");
            Ok::<_, io::Error>((size, media::probe(file, caf).duration_ms))
        };
        let (size, millis) = spawn_blocking(probe)
            .await
            .map_err(|_| Error::TaskFailed)??;
        let rate = f64::from_be_bytes(input.head[20..28].try_into().expect("eight bytes"));
        let duration = Duration::from_millis(millis.unwrap_or_default());
        check_audio(size, rate, duration)?;
        Ok((input, duration))
    }
}

/// Rejects audio that would exceed the limits when decoded.
fn check_audio(size: u64, rate: f64, duration: Duration) -> Result<(), Error> {
    if !SAMPLE_RATES.contains(&rate) {
        return Err(Error::OutOfBounds(format!("a sample rate of {rate} Hz")));
    }
    if duration > MAX_DURATION {
        return Err(Error::OutOfBounds(format!(
            "a duration of {} s",
            duration.as_secs()
        )));
    }
    #[expect(clippy::cast_precision_loss, reason = "no file has 2^52 bytes")]
    let max_frames = size as f64 * MAX_FRAMES_PER_BYTE;
    if duration.as_secs_f64() * rate > max_frames {
        return Err(Error::OutOfBounds(
            "more audio than a file of its size can hold".to_owned(),
        ));
    }
    Ok(())
}

fn in_path(program: &Path) -> Result<PathBuf, String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file());
    found.ok_or_else(|| format!("{} is not in PATH", program.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_out_of_bounds_is_rejected_before_decoding() {
        let seconds = Duration::from_secs;
        for (size, rate, duration, accepted) in [
            (100_068, 44_100.0, seconds(1), true),
            (100_068, 8000.0, seconds(100), true),
            (100_068, 1.0, seconds(100_000), false),
            (100_068, f64::NAN, seconds(1), false),
            (100_068, -8000.0, seconds(1), false),
            (100_068, 1e300, seconds(1), false),
            (100_068, 48_000.0, seconds(12_000), false),
            (100_068, 48_000.0, seconds(300), false),
            (100_000_000, 8000.0, seconds(7201), false),
            (100_000_000, 8000.0, seconds(7200), true),
        ] {
            assert_eq!(
                check_audio(size, rate, duration).is_ok(),
                accepted,
                "{size} bytes, {rate} Hz, {duration:?}"
            );
        }
    }
}
