//! The one program of others that is run: `ffmpeg`, for what needs an encoder. It gets one folder that holds the file,
//! is told what the file is, may open nothing but files and only by its own arguments, and is bounded in time, memory and
//! output.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::OnceCell;
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

/// A program that was found. What it is is asked when it is first needed, so that nobody waits for it at start.
#[derive(Debug)]
pub struct Ffmpeg {
    program: PathBuf,
    probe: OnceCell<Result<Probe, String>>,
}

/// What was found out about the program.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Its version.
    pub version: String,
    /// `unshare`, if the system lets it take the network away from the program.
    unshare: Option<PathBuf>,
}

impl Probe {
    /// Whether the program runs without any network.
    #[must_use]
    pub fn is_isolated(&self) -> bool {
        self.unshare.is_some()
    }
}

impl Ffmpeg {
    /// Looks for the program, by path or in `PATH`.
    ///
    /// # Errors
    /// It is not there.
    pub fn find(program: &Path) -> Result<Self, String> {
        let found = if program.components().count() > 1 { program.to_owned() } else { in_path(program)? };
        // It runs in another folder.
        let found = found.canonicalize().map_err(|error| format!("cannot find {}: {error}", program.display()))?;
        Ok(Self { program: found, probe: OnceCell::new() })
    }

    /// Asks the program what it is, once.
    ///
    /// # Errors
    /// It cannot be run, or is no ffmpeg.
    pub async fn probe(&self) -> Result<&Probe, &str> {
        let probe = self.probe.get_or_init(|| probe(&self.program)).await;
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
        let unshare = self.probe().await.map_err(|_| Error::NoFfmpeg)?.unshare.as_deref();
        let mut command = limited(&self.program, unshare);
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
            timeout(PATIENCE, ended).await.map_err(|_| Error::Limited(format!("it took longer than {PATIENCE:?}")))?;
        let (status, said) = ended?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
            let why = format!("{status}: {said}");
            return Err(match status.code() {
                Some(_) if said.contains("No space left on device") => io::Error::other(why).into(),
                Some(_) => Error::Ffmpeg(why),
                // A signal: of time, memory or output.
                None => Error::Limited(why),
            });
        }
        let file = File::open(folder.path().join("out"))?;
        if file.metadata()?.len() == 0 {
            return Err(Error::Ffmpeg("it wrote nothing".to_owned()));
        }
        Ok(file)
    }
}

async fn probe(program: &Path) -> Result<Probe, String> {
    let cannot = |problem: &str| format!("cannot run {}: {problem}", program.display());
    let unshare = match in_path(Path::new("unshare")) {
        Ok(unshare) if says_version(program, Some(&unshare)).await.is_ok() => Some(unshare),
        _ => None,
    };
    let output = says_version(program, unshare.as_deref()).await.map_err(|problem| cannot(&problem))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.lines().next().and_then(|line| line.strip_prefix("ffmpeg version "));
    let version = version.and_then(|rest| rest.split(' ').next());
    let version = version.ok_or_else(|| cannot("it is no ffmpeg"))?.to_owned();
    Ok(Probe { version, unshare })
}

/// What the program says of its version.
async fn says_version(program: &Path, unshare: Option<&Path>) -> Result<Output, String> {
    let mut command = limited(program, unshare);
    command.arg("-version").stdin(Stdio::null()).kill_on_drop(true);
    let output = timeout(PATIENCE, command.output()).await.map_err(|_| "it does not end".to_owned())?;
    let output = output.map_err(|error| error.to_string())?;
    if output.status.success() { Ok(output) } else { Err(format!("{}", output.status)) }
}

/// The program under limits that a parent cannot set without unsafe code, and in a network of its own that reaches nothing
/// (`network_namespaces(7)`), where the system allows that.
fn limited(program: &Path, unshare: Option<&Path>) -> Command {
    let limits = format!("ulimit -t {} && ulimit -v {MEMORY} && ulimit -f {OUTPUT} && exec \"$@\"", PATIENCE.as_secs());
    let shell = Path::new("/bin/sh");
    let mut command = Command::new(unshare.unwrap_or(shell));
    if unshare.is_some() {
        command.args(["--map-root-user", "--net", "--"]).arg(shell);
    }
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
