//! Runs sandboxed child processes that decode untrusted files, either with the decoders of this
//! binary (a hidden subcommand) or with `ffmpeg`. This module knows nothing about media.
//!
//! The server starts its own binary again as a child process. The child confines itself
//! (`confine`), then runs a decoder or replaces itself with `ffmpeg` (`execve`). Memory
//! (`RLIMIT_AS`), CPU time, wall time and output size are limited. The child has no network
//! (seccomp) and, where the kernel supports Landlock, can access only the files of its job. It is
//! killed when the caller is cancelled, at its deadline, and when the server exits
//! (`PR_SET_PDEATHSIG`).

pub(crate) mod confine;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::{ChildStderr, Command};
use tokio::time::timeout;

pub use confine::Confinement;

/// The hidden subcommand that makes this binary run as a confined child process.
pub const SUBCOMMAND: &str = "sandbox";
/// Maximum size in bytes of the error message read from a child.
const MAX_MESSAGE: u64 = 2000;
/// Exit status for a system failure, as opposed to invalid input: `EX_IOERR` of `sysexits.h`.
pub const EXIT_IO: u8 = 74;
/// Exit status of a Rust program that panics.
const EXIT_PANIC: i32 = 101;

/// Resource limits of a child process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Address space in bytes; decoders of this binary get this in addition to what the binary
    /// itself occupies.
    pub memory: u64,
    pub cpu_seconds: u64,
    /// Maximum size of each written file, in bytes.
    pub output: u64,
    /// Maximum wall time.
    pub deadline: Duration,
}

/// Instructions for a child process, passed to the hidden subcommand as JSON: how to confine
/// itself, and what to run afterwards.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChildSpec {
    pub limits: Limits,
    /// Process id of the server. The child exits if its parent is a different process.
    pub parent: u32,
    /// Files and folders with read access.
    pub readable: Vec<PathBuf>,
    /// Files and folders with read and execute access.
    pub executable: Vec<PathBuf>,
    /// Folders with read and write access.
    pub writable: Vec<PathBuf>,
    pub run: Run,
}

/// The task that a child process runs after confining itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Run {
    /// Run a decoder of this binary, given by name and argument.
    Decoder(String, Option<String>),
    /// Run another program, which replaces the child process.
    Program(PathBuf, Vec<OsString>),
    /// Report which restrictions are in effect.
    Probe,
}

/// A child process to start, with its limits, files and folders.
#[derive(Debug)]
pub struct Job<'a> {
    pub limits: Limits,
    pub run: Run,
    /// Standard input, which is a seekable file.
    pub input: Option<File>,
    /// Standard output.
    pub output: Option<File>,
    /// Working directory, the only folder that the child can write to.
    pub folder: Option<&'a Path>,
    /// Folders that contain the program and its libraries.
    pub executable: Vec<PathBuf>,
}

/// Reasons why a child process returned no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The process exited with a non-zero status; `message` is its standard error.
    #[error("{message}")]
    Failed { status: i32, message: String },
    /// The process exceeded a limit that is proportional to the input size.
    #[error("it needs more {0} than a file of its size may")]
    LimitExceeded(&'static str),
    /// The process panicked or was terminated by a signal.
    #[error("the decoder crashed: {0}")]
    Crashed(String),
    /// The deadline passed, possibly because the machine was busy.
    #[error("it took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The process could not be started, or reading or writing data failed.
    #[error("decoder process: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Returns true if the input caused the error, which means that a retry would fail in the same
    /// way.
    #[must_use]
    pub fn is_caused_by_input(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::LimitExceeded(_) | Self::Crashed(_)
        )
    }
}

/// Starts sandboxed child processes.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
}

impl Sandbox {
    /// `program` is the path of the Haversack binary, which is started for each child process.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Returns the path of the running binary. Where `/proc` exists, the path below it stays valid
    /// after an upgrade has replaced the binary.
    ///
    /// # Errors
    /// Returns an error if the system does not reveal the path.
    pub fn own_program() -> io::Result<PathBuf> {
        let running = Path::new("/proc/self/exe");
        if running.exists() {
            Ok(running.to_owned())
        } else {
            std::env::current_exe()
        }
    }

    /// Runs a job to completion. Dropping the future kills the child.
    ///
    /// # Errors
    /// Returns an error if the child process gave no result.
    pub async fn run(&self, job: Job<'_>) -> Result<(), Error> {
        let Job {
            limits,
            run,
            input,
            output,
            folder,
            executable,
        } = job;
        let spec = ChildSpec {
            limits,
            parent: std::process::id(),
            readable: folder.into_iter().map(Path::to_owned).collect(),
            executable,
            writable: folder.into_iter().map(Path::to_owned).collect(),
            run,
        };
        let mut command = Command::new(&self.program);
        command.arg0("haversack").arg(SUBCOMMAND).arg(spec.encode());
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        command
            .stdout(output.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::piped());
        // Backtraces are disabled, because they would read files that the child cannot access.
        command
            .env_clear()
            .env("RUST_BACKTRACE", "0")
            .current_dir(folder.unwrap_or(Path::new("/")));
        command.kill_on_drop(true);
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().expect("standard error is piped");
        let exit = async { Ok::<_, io::Error>((message(stderr).await?, child.wait().await?)) };
        let exit = timeout(limits.deadline, exit).await;
        let (message, status) = exit.map_err(|_| Error::TimedOut(limits.deadline))??;
        result(status, message)
    }

    /// Reports the restrictions in effect on this system, as measured in a child process.
    ///
    /// # Errors
    /// Returns an error if the child process gave no result.
    pub async fn probe(&self) -> Result<Confinement, Error> {
        let mut output = tempfile::tempfile()?;
        let limits = Limits {
            memory: 64 << 20,
            cpu_seconds: 5,
            output: 1 << 20,
            deadline: Duration::from_secs(10),
        };
        let file = output.try_clone()?;
        let job = Job {
            limits,
            run: Run::Probe,
            input: None,
            output: Some(file),
            folder: None,
            executable: Vec::new(),
        };
        self.run(job).await?;
        io::Seek::rewind(&mut output)?;
        serde_json::from_reader(output).map_err(|error| Error::Io(error.into()))
    }
}

/// Reads the beginning of a child's standard error and joins it into one line. The rest is read and
/// discarded, because a full pipe would block the child.
async fn message(stderr: ChildStderr) -> io::Result<String> {
    let (mut message, mut stderr) = (Vec::new(), stderr.take(MAX_MESSAGE));
    stderr.read_to_end(&mut message).await?;
    tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&message).trim().replace('\n', "; "))
}

/// Converts a child's exit status into success or an error.
fn result(status: ExitStatus, message: String) -> Result<(), Error> {
    use rustix::process::Signal;
    const CPU: i32 = Signal::XCPU.as_raw();
    const FILE_SIZE: i32 = Signal::XFSZ.as_raw();
    const ABORT: i32 = Signal::ABORT.as_raw();
    match (status.code(), status.signal()) {
        (Some(0), _) => Ok(()),
        (Some(EXIT_PANIC), _) => Err(Error::Crashed(message)),
        (Some(status), _) if status == i32::from(EXIT_IO) => Err(io::Error::other(message).into()),
        (Some(_), _) if message.contains("No space left on device") => {
            Err(io::Error::other(message).into())
        }
        (Some(status), _) => Err(Error::Failed { status, message }),
        (None, Some(CPU)) => Err(Error::LimitExceeded("CPU time")),
        (None, Some(FILE_SIZE)) => Err(Error::LimitExceeded("output")),
        // A failed allocation makes a Rust program abort, so the limit was exceeded.
        (None, Some(ABORT)) if message.contains("memory allocation") => {
            Err(Error::LimitExceeded("memory"))
        }
        (None, signal) => Err(Error::Crashed(format!(
            "signal {}: {message}",
            signal.unwrap_or_default()
        ))),
    }
}

impl ChildSpec {
    fn encode(&self) -> String {
        serde_json::to_string(self).expect("paths and numbers serialise to JSON")
    }

    pub(crate) fn decode(argument: &OsStr) -> Result<Self, String> {
        let text = argument.to_str().ok_or("the argument is not UTF-8")?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}
