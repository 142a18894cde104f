//! Sandboxed child processes, in which untrusted files are decoded: by the decoders of this binary
//! (a hidden subcommand) or by `ffmpeg`. Knows nothing of media.
//!
//! The parent starts this binary again. The child confines itself ([`confine`]), then runs a
//! decoder or replaces itself with `ffmpeg` (`execve`). Memory (`RLIMIT_AS`), CPU time, wall time
//! and output size are limited. The child has no network (seccomp) and, where the kernel has
//! Landlock, no access to files other than those of its job. It is killed when the caller is
//! cancelled, at its deadline, and when the server dies (`PR_SET_PDEATHSIG`).

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

/// The hidden subcommand of this binary that confines itself.
pub const SUBCOMMAND: &str = "sandbox";
/// Maximum size in bytes of the error message read from a child.
const MAX_MESSAGE: u64 = 2000;
/// Exit status for a failure of the system rather than of the input: `EX_IOERR` of `sysexits.h`.
pub const EXIT_IO: u8 = 74;
/// Exit status of a Rust program that panicked.
const EXIT_PANIC: i32 = 101;

/// Resource limits of a child.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Address space in bytes; for a decoder of this binary, in addition to that of the binary.
    pub memory: u64,
    pub cpu_seconds: u64,
    /// Maximum size of a written file in bytes.
    pub output: u64,
    /// Wall time.
    pub deadline: Duration,
}

/// The argument of the hidden subcommand, as JSON: how the child confines itself, and what it runs
/// then.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ChildSpec {
    pub limits: Limits,
    /// Process id of the server. The child exits if its parent is another process.
    pub parent: u32,
    /// Files and folders with read access.
    pub readable: Vec<PathBuf>,
    /// Files and folders with read and execute access.
    pub executable: Vec<PathBuf>,
    /// Folders with read and write access.
    pub writable: Vec<PathBuf>,
    pub run: Run,
}

/// The task of a child after it has confined itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Run {
    /// A decoder of this binary: its name and its argument.
    Decoder(String, Option<String>),
    /// Another program, which replaces the child process.
    Program(PathBuf, Vec<OsString>),
    /// A report of the confinement that is in effect.
    Probe,
}

/// A child process to run.
#[derive(Debug)]
pub struct Job<'a> {
    pub limits: Limits,
    pub run: Run,
    /// Standard input; seekable.
    pub input: Option<File>,
    /// Standard output.
    pub output: Option<File>,
    /// Working directory, and the only folder with write access.
    pub folder: Option<&'a Path>,
    /// Folders that hold the program and its libraries.
    pub executable: Vec<PathBuf>,
}

/// The reason why a child process gave no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Non-zero exit status; the message is from standard error.
    #[error("{message}")]
    Failed { status: i32, message: String },
    /// A limit was exceeded that is proportional to the input.
    #[error("it needs more {0} than a file of its size may")]
    LimitExceeded(&'static str),
    /// A panic, or a signal.
    #[error("the decoder crashed: {0}")]
    Crashed(String),
    /// The deadline passed, possibly because the machine is busy.
    #[error("it took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The process could not be started, or reading or writing failed.
    #[error("decoder process: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Returns true if the input caused the error, so that a retry would fail again.
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
    /// `program` is the binary to start as the child process; it must be Haversack.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// Returns the path of the running binary. The path below `/proc` stays valid after an upgrade
    /// has replaced the file.
    ///
    /// # Errors
    /// The system does not tell the path.
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
    /// The child gave no result.
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
        // A backtrace would read files that the child has no access to.
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

    /// Reports the confinement that is in effect on this system, measured in a child process.
    ///
    /// # Errors
    /// The child gave no result.
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

/// Reads the start of a child's standard error, on one line. Discards the rest, because a full pipe
/// would block the child.
async fn message(stderr: ChildStderr) -> io::Result<String> {
    let (mut message, mut stderr) = (Vec::new(), stderr.take(MAX_MESSAGE));
    stderr.read_to_end(&mut message).await?;
    tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&message).trim().replace('\n', "; "))
}

/// Maps the exit status of a child to its result.
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
        // A Rust program aborts if an allocation fails.
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
