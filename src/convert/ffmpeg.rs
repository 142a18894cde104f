//! The one program of others that is run: `ffmpeg`, for what needs an encoder. It gets one folder that holds the file,
//! is told what the file is, may open nothing but files and only by its own arguments, and is bounded in time, memory and
//! output. Its version and presence are found out at start.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::sound::Peaks;
use super::{Error, Heard};
use crate::blob::Content;
use crate::domain::attachment::Sound;

/// How long one run may take, in seconds of time and of a processor.
const PATIENCE: Duration = Duration::from_mins(1);
/// Most address space of the program, in KiB. It maps about 300 MiB before it does anything.
const MEMORY: u32 = 1024 * 1024;
/// Largest file it may write, in blocks of 512 bytes: 128 MiB.
const OUTPUT: u32 = 256 * 1024;
/// Most that is kept of what it says.
const MESSAGE: u64 = 2000;

/// What a file is, so that the program need not guess.
struct Media<'a> {
    /// The demuxer that reads it.
    format: &'a str,
    /// The stream of it that is wanted.
    stream: &'a str,
    options: &'a [&'a str],
}

const CAF: Media<'_> = Media { format: "caf", stream: "0:a:0", options: &[] };
const AMR: Media<'_> = Media { format: "amr", stream: "0:a:0", options: &[] };

/// A program that was found.
#[derive(Clone, Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    version: String,
}

impl Ffmpeg {
    /// Looks for the program, by path or in `PATH`.
    ///
    /// # Errors
    /// It is not there, or cannot be run.
    pub async fn find(program: &Path) -> Result<Self, String> {
        let cannot = |error: &dyn std::fmt::Display| format!("cannot run {}: {error}", program.display());
        let program = if program.components().count() > 1 { program.to_owned() } else { in_path(program)? };
        // It runs in another folder.
        let program = program.canonicalize().map_err(|error| cannot(&error))?;
        let mut command = limited(&program);
        command.arg("-version").stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.map_err(|_| cannot(&"it does not end"))?;
        let output = output.map_err(|error| cannot(&error))?;
        let said = String::from_utf8_lossy(&output.stdout);
        let version = said.lines().next().and_then(|line| line.strip_prefix("ffmpeg version "));
        let version = version.and_then(|rest| rest.split(' ').next()).filter(|_| output.status.success());
        let version = version.ok_or_else(|| cannot(&"it is no ffmpeg"))?.to_owned();
        Ok(Self { program, version })
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Where it is.
    #[must_use]
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// CAF as M4A. AAC is copied as it is; everything else is encoded.
    pub(super) async fn caf_to_m4a(&self, parent: &Path, content: Box<dyn Content>) -> Result<File, Error> {
        let (folder, head) = place(parent, content).await?;
        // Apple Core Audio Format Specification, "Audio Description Chunk": it is the first, and names the codec.
        let codec = if head[28..32] == *b"aac " { "copy" } else { "aac" };
        let output = ["-c:a", codec, "-movflags", "+faststart", "-f", "ipod"];
        let file = self.run(&folder, &CAF, &output).await;
        match file {
            // AAC of a kind that the new container cannot take.
            Err(Error::Ffmpeg(_)) if codec == "copy" => {
                self.run(&folder, &CAF, &["-c:a", "aac", "-movflags", "+faststart", "-f", "ipod"]).await
            }
            file => file,
        }
    }

    /// The first page of a TIFF picture as PNM; and the picture again.
    pub(super) async fn tiff_to_pnm(
        &self,
        parent: &Path,
        content: Box<dyn Content>,
    ) -> Result<(File, Box<dyn Content>), Error> {
        let (folder, _) = place(parent, content).await?;
        let pixels = super::MAX_PIXELS.to_string();
        let picture = Media { format: "tiff_pipe", stream: "0:v:0", options: &["-max_pixels", &pixels] };
        let decoded = self.run(&folder, &picture, &["-frames:v", "1", "-c:v", "ppm", "-f", "image2pipe"]).await?;
        Ok((decoded, Box::new(File::open(folder.path().join("in"))?)))
    }

    /// AMR, which nothing in this process decodes.
    pub(super) async fn listen_to_amr(&self, parent: &Path, content: Box<dyn Content>) -> Heard {
        match self.decode_amr(parent, content).await {
            Ok(Some(sound)) => Heard::Sound(sound),
            Ok(None) | Err(Error::Ffmpeg(_)) => Heard::Nothing,
            Err(error) => {
                tracing::warn!(%error, "cannot listen to a file");
                Heard::Unknown
            }
        }
    }

    async fn decode_amr(&self, parent: &Path, content: Box<dyn Content>) -> Result<Option<Sound>, Error> {
        let (folder, head) = place(parent, content).await?;
        // RFC 4867 section 5.1.
        let sample_rate = if head.starts_with(b"#!AMR-WB") { 16_000 } else { 8_000 };
        let rate = sample_rate.to_string();
        let file = self.run(&folder, &AMR, &["-ac", "1", "-ar", &rate, "-f", "s16le"]).await?;
        let peaks = move || -> io::Result<Option<Sound>> {
            let (mut peaks, mut reader, mut sample) = (Peaks::default(), BufReader::new(file), [0; 2]);
            while reader.read_exact(&mut sample).is_ok() {
                peaks.push(f32::from(i16::from_le_bytes(sample)).abs() / f32::from(i16::MAX));
            }
            Ok(peaks.waveform().map(|waveform| Sound { channels: 1, sample_rate, waveform }))
        };
        Ok(spawn_blocking(peaks).await.map_err(|_| Error::Stopped)??)
    }

    /// Runs the program on the file in the folder, and gives what it wrote.
    async fn run(&self, folder: &TempDir, input: &Media<'_>, output: &[&str]) -> Result<File, Error> {
        let mut command = limited(&self.program);
        command.args(["-nostdin", "-hide_banner", "-loglevel", "error", "-y", "-threads", "1"]);
        // The format is not guessed, and nothing in the file can name another file or host: a playlist is no CAF, and
        // no protocol but `file` is there.
        command.args(["-protocol_whitelist", "file", "-f", input.format]).args(input.options).args(["-i", "in"]);
        command.args(["-map", input.stream, "-sn", "-dn", "-map_metadata", "-1", "-bitexact", "-threads", "1"]);
        command.args(output).arg("out");
        command.current_dir(folder.path()).env_clear().stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().expect("it is a pipe");
        let ended = async {
            let mut said = Vec::new();
            let mut stderr = stderr.take(MESSAGE);
            stderr.read_to_end(&mut said).await?;
            // Whatever else it has to say.
            tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
            Ok::<_, io::Error>((child.wait().await?, said))
        };
        let ended =
            timeout(PATIENCE, ended).await.map_err(|_| Error::Ffmpeg(format!("took longer than {PATIENCE:?}")))?;
        let (status, said) = ended?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
            return Err(Error::Ffmpeg(format!("{status}: {said}")));
        }
        let file = File::open(folder.path().join("out"))?;
        if file.metadata()?.len() == 0 {
            return Err(Error::Ffmpeg("it wrote nothing".to_owned()));
        }
        Ok(file)
    }
}

/// The program under limits that a parent cannot set without unsafe code.
fn limited(program: &Path) -> Command {
    let limits = format!("ulimit -t {} && ulimit -v {MEMORY} && ulimit -f {OUTPUT} && exec \"$@\"", PATIENCE.as_secs());
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &limits, "sh"]).arg(program);
    command
}

/// Puts the content into a folder of its own; its first bytes.
async fn place(parent: &Path, mut content: Box<dyn Content>) -> Result<(TempDir, [u8; 64]), Error> {
    let parent = parent.to_owned();
    let place = move || {
        let folder = tempfile::tempdir_in(parent)?;
        let path = folder.path().join("in");
        io::copy(&mut content, &mut File::create(&path)?)?;
        let mut head = [0; 64];
        let _ = File::open(&path)?.read(&mut head)?;
        Ok::<_, io::Error>((folder, head))
    };
    Ok(spawn_blocking(place).await.map_err(|_| Error::Stopped)??)
}

fn in_path(program: &Path) -> Result<PathBuf, String> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.ok_or_else(|| format!("{} is not in PATH", program.display()))
}
