//! ffmpeg, for what needs an encoder or a decoder that is not built in. It runs in the sandbox, in a folder that holds the
//! one file; it is told the input format, may open nothing but files, and what it can write is bounded before it starts.

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

/// Address space of the program in bytes. It maps about 300 MiB before it does anything.
const MEMORY: u64 = 1024 * 1024 * 1024;
/// Largest file it may write, in bytes.
const MAX_OUTPUT: u64 = 128 * 1024 * 1024;
/// CPU time for any file, in seconds; converting sound gets a second more for each [`SPEED`] seconds of it.
const CPU_SECONDS: u64 = 5;
/// Seconds of sound that are encoded in a second at the least. Common machines do 50 to 100.
const SPEED: u64 = 20;
/// Longest sound that is converted or decoded.
const MAX_DURATION: Duration = Duration::from_hours(2);
/// Sample rates of sound that is converted, in Hz. Resampling from a lower one would multiply the samples.
const SAMPLE_RATES: std::ops::RangeInclusive<f64> = 4000.0..=384_000.0;
/// Frames of sound for each byte of a file. Speech at 6 kbit/s has 64, one-byte packets of Opus 5,760.
const MAX_FRAMES_PER_BYTE: f64 = 128.0;
/// Where programs and their libraries are, besides the program's own folder.
const SYSTEM: [&str; 8] = [
    "/usr",
    "/bin",
    "/lib",
    "/lib64",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/etc/ld.so.cache",
];

/// What a file is, so that the program need not guess.
struct Media<'a> {
    /// The demuxer that reads it.
    format: &'a str,
    /// The stream of it that is wanted.
    stream: &'a str,
    options: &'a [&'a str],
}

const CAF: Media<'_> = Media {
    format: "caf",
    stream: "0:a:0",
    options: &[],
};
const AMR: Media<'_> = Media {
    format: "amr",
    stream: "0:a:0",
    options: &[],
};

/// A program that was found. It is asked for its version when it is first needed, so that nobody waits for it at start.
#[derive(Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    sandbox: Sandbox,
    probe: OnceCell<Result<Probe, String>>,
}

/// What was found out about the program.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its version.
    pub version: String,
}

impl Ffmpeg {
    /// Looks for the program, by path or in `PATH`.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(program: &Path, sandbox: Sandbox) -> Result<Self, String> {
        let found = if program.components().count() > 1 {
            program.to_owned()
        } else {
            in_path(program)?
        };
        // It runs in another folder.
        let found = found
            .canonicalize()
            .map_err(|error| format!("cannot find {}: {error}", program.display()))?;
        Ok(Self {
            program: found,
            sandbox,
            probe: OnceCell::new(),
        })
    }

    /// Asks the program for its version, once.
    ///
    /// # Errors
    /// It cannot be run in the sandbox, or is no ffmpeg.
    pub async fn probe(&self) -> Result<&Probe, &str> {
        let probe = self.probe.get_or_init(|| self.ask_version()).await;
        probe.as_ref().map_err(String::as_str)
    }

    /// Whether it was not found to be something else.
    pub(super) fn may_work(&self) -> bool {
        self.probe.get().is_none_or(Result::is_ok)
    }

    /// Where it is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// CAF as M4A. AAC is copied as it is; everything else is encoded.
    pub(super) async fn caf_to_m4a(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<File, Error> {
        let (input, duration) = Input::of_caf(parent, content).await?;
        // Apple Core Audio Format Specification, "Audio Description Chunk": it is the first, and names the codec.
        let codec = if input.head[28..32] == *b"aac " {
            "copy"
        } else {
            "aac"
        };
        let limits = limits(duration);
        let output = ["-c:a", codec, "-movflags", "+faststart", "-f", "ipod"];
        let file = self.run(&input.folder, limits, &CAF, &output).await;
        match file {
            // AAC of a kind that the new container cannot take.
            Err(Error::Decoder(sandbox::Error::Failed { .. })) if codec == "copy" => {
                let output = ["-c:a", "aac", "-movflags", "+faststart", "-f", "ipod"];
                self.run(&input.folder, limits, &CAF, &output).await
            }
            file => file,
        }
    }

    /// The first page of a TIFF picture as PNM.
    pub(super) async fn tiff_to_pnm(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<File, Error> {
        let input = Input::place(parent, content).await?;
        let pixels = super::MAX_PIXELS.to_string();
        let picture = Media {
            format: "tiff_pipe",
            stream: "0:v:0",
            options: &["-max_pixels", &pixels],
        };
        let output = ["-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe"];
        // A picture of the largest size is decoded in the time of a minute of sound.
        self.run(
            &input.folder,
            limits(Duration::from_mins(1)),
            &picture,
            &output,
        )
        .await
    }

    /// The waveform of AMR, which no decoder of ours reads.
    pub(super) async fn analyze_amr(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> AudioAnalysis {
        match self.decode_amr(parent, content).await {
            Ok(Some(sound)) => AudioAnalysis::Sound(sound),
            Ok(None) | Err(Error::Decoder(sandbox::Error::Failed { .. })) => AudioAnalysis::Nothing,
            Err(error) => {
                tracing::warn!(%error, "an AMR file cannot be decoded; it has no waveform");
                AudioAnalysis::Unknown
            }
        }
    }

    async fn decode_amr(
        &self,
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<Option<AudioInfo>, Error> {
        let input = Input::place(parent, content).await?;
        // RFC 4867 section 5.1.
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
        Ok(spawn_blocking(peaks).await.map_err(|_| Error::Stopped)??)
    }

    /// Runs the program on the file in the folder, and opens what it wrote.
    async fn run(
        &self,
        folder: &TempDir,
        limits: Limits,
        input: &Media<'_>,
        output: &[&str],
    ) -> Result<File, Error> {
        self.probe().await.map_err(|_| Error::NoFfmpeg)?;
        let longest = MAX_DURATION.as_secs().to_string();
        let mut arguments = vec![
            "-nostdin",
            "-hide_banner",
            "-loglevel",
            "error",
            "-y",
            "-threads",
            "1",
        ];
        // The format is not guessed, and nothing in the file can name another file or host: a playlist is no CAF, and
        // no protocol but `file` is there.
        arguments.extend(["-protocol_whitelist", "file", "-f", input.format]);
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
        arguments.extend(["-threads", "1", "-t", &longest]);
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
        SYSTEM.iter().map(PathBuf::from).chain(own).collect()
    }

    async fn ask_version(&self) -> Result<Probe, String> {
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
            let mut said = String::new();
            output.rewind()?;
            (&output).take(1000).read_to_string(&mut said)?;
            Ok::<_, sandbox::Error>(said)
        };
        let said = version.await.map_err(|error| cannot(error.to_string()))?;
        let version = said
            .lines()
            .next()
            .and_then(|line| line.strip_prefix("ffmpeg version "));
        let version = version.and_then(|rest| rest.split(' ').next());
        let version = version
            .ok_or_else(|| cannot("it is no ffmpeg".to_owned()))?
            .to_owned();
        Ok(Probe { version })
    }
}

/// Limits for converting so much sound.
fn limits(duration: Duration) -> Limits {
    let cpu_seconds = CPU_SECONDS + duration.as_secs() / SPEED;
    Limits {
        memory: MEMORY,
        cpu_seconds,
        output: MAX_OUTPUT,
        deadline: super::deadline(cpu_seconds),
    }
}

/// A file in a folder of its own, and its first bytes.
struct Input {
    folder: TempDir,
    head: [u8; 64],
}

impl Input {
    async fn place(parent: &Path, mut content: Box<dyn RandomAccess>) -> Result<Self, Error> {
        let parent = parent.to_owned();
        let place = move || {
            let folder = tempfile::tempdir_in(parent)?;
            let path = folder.path().join("in");
            content.rewind()?;
            io::copy(&mut content, &mut File::create(&path)?)?;
            let mut head = [0; 64];
            let _ = File::open(&path)?.read(&mut head)?;
            Ok::<_, io::Error>(Self { folder, head })
        };
        Ok(spawn_blocking(place).await.map_err(|_| Error::Stopped)??)
    }

    /// A CAF file whose sound is bounded in length and rate, and its duration.
    async fn of_caf(
        parent: &Path,
        content: Box<dyn RandomAccess>,
    ) -> Result<(Self, Duration), Error> {
        let input = Self::place(parent, content).await?;
        let path = input.folder.path().join("in");
        let measure = move || {
            let file = File::open(path)?;
            let size = file.metadata()?.len();
            let caf = media::by_extension("caf").expect("a type of the table");
            Ok::<_, io::Error>((size, media::probe(file, caf).duration_ms))
        };
        let (size, millis) = spawn_blocking(measure)
            .await
            .map_err(|_| Error::Stopped)??;
        let rate = f64::from_be_bytes(input.head[20..28].try_into().expect("eight bytes"));
        let duration = Duration::from_millis(millis.unwrap_or_default());
        check_sound(size, rate, duration)?;
        Ok((input, duration))
    }
}

/// Refuses sound that would take more time and output than its file is worth.
fn check_sound(size: u64, rate: f64, duration: Duration) -> Result<(), Error> {
    if !SAMPLE_RATES.contains(&rate) {
        return Err(Error::OutOfBounds(format!("a sample rate of {rate} Hz")));
    }
    if duration > MAX_DURATION {
        return Err(Error::OutOfBounds(format!(
            "a length of {} s",
            duration.as_secs()
        )));
    }
    #[expect(clippy::cast_precision_loss, reason = "no file has 2^52 bytes")]
    let most = size as f64 * MAX_FRAMES_PER_BYTE;
    if duration.as_secs_f64() * rate > most {
        return Err(Error::OutOfBounds(
            "more sound than a file of its size can hold".to_owned(),
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
    fn sound_out_of_bounds_is_refused_before_it_is_decoded() {
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
                check_sound(size, rate, duration).is_ok(),
                accepted,
                "{size} bytes, {rate} Hz, {duration:?}"
            );
        }
    }
}
