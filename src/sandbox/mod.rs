//! Bounded child processes for everything that decodes a stranger's bytes: our own decoders, as a hidden subcommand of this
//! binary, and ffmpeg. One mechanism for both.
//!
//! The parent starts this binary again; the child confines itself ([`confine`]) and then runs a decoder or replaces itself
//! by ffmpeg. It is bounded in memory (`RLIMIT_AS`), CPU time, wall time and output size, has no network (seccomp) and no
//! files but the ones it is given (Landlock, where the kernel has it), and is killed when the caller is cancelled, when the
//! deadline passes, and when the server dies (`PR_SET_PDEATHSIG`). Knows nothing of media.

pub mod confine;

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

/// The hidden subcommand of this binary that runs confined.
pub const SUBCOMMAND: &str = "sandbox";
/// Longest message of a child that is kept, in bytes.
const MAX_MESSAGE: u64 = 2000;
/// Exit status for a failure of the system and not of the input, as `EX_IOERR` of `sysexits.h`.
pub const EXIT_IO: u8 = 74;
/// Exit status of a Rust program that panicked.
const EXIT_PANIC: i32 = 101;

/// What a child may use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Limits {
    /// Address space in bytes; for a decoder of ours, beyond what the program itself takes.
    pub memory: u64,
    /// CPU time in seconds.
    pub cpu_seconds: u64,
    /// Largest file it may write, in bytes.
    pub output: u64,
    /// Wall time.
    pub deadline: Duration,
}

/// What a child is told before it runs anything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// Its limits.
    pub limits: Limits,
    /// The process that started it and must be alive.
    pub parent: u32,
    /// Folders and files it may read.
    pub readable: Vec<PathBuf>,
    /// Folders and files it may also run programs from.
    pub executable: Vec<PathBuf>,
    /// Folders it may write to.
    pub writable: Vec<PathBuf>,
    /// What it runs.
    pub run: Run,
}

/// What a child runs once it is confined.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Run {
    /// A decoder of ours, by name, with its argument.
    Decoder(String, Option<String>),
    /// Another program.
    Program(PathBuf, Vec<OsString>),
    /// Reports what holds of the confinement.
    Probe,
}

/// A process to run.
#[derive(Debug)]
pub struct Job<'a> {
    /// Its limits.
    pub limits: Limits,
    /// What it runs.
    pub run: Run,
    /// Its input; it can be read from anywhere.
    pub input: Option<File>,
    /// Where its output goes.
    pub output: Option<File>,
    /// The folder it runs in, and the only one it may write to.
    pub folder: Option<&'a Path>,
    /// Folders with the program and its libraries.
    pub executable: Vec<PathBuf>,
}

/// Why a child brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It ended with an exit status and a reason.
    #[error("{message}")]
    Failed {
        /// The exit status.
        status: i32,
        /// Its message.
        message: String,
    },
    /// It came up against a limit that grows with its input.
    #[error("it needs more {0} than a file of its size may")]
    LimitExceeded(&'static str),
    /// It crashed.
    #[error("the decoder crashed: {0}")]
    Crashed(String),
    /// It took too long, which can also be the fault of a busy machine.
    #[error("it took longer than {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It could not be started, or its files failed.
    #[error("decoder process: {0}")]
    Io(#[from] io::Error),
}

impl Error {
    /// Whether this is due to the input, so that a retry would end in the same way.
    #[must_use]
    pub fn is_of_input(&self) -> bool {
        matches!(
            self,
            Self::Failed { .. } | Self::LimitExceeded(_) | Self::Crashed(_)
        )
    }
}

/// Starts confined children.
#[derive(Clone, Debug)]
pub struct Sandbox {
    program: PathBuf,
}

impl Sandbox {
    /// A sandbox whose children are this program, which must be a Haversack binary.
    #[must_use]
    pub fn new(program: PathBuf) -> Self {
        Self { program }
    }

    /// The running program. Under `/proc` it stays the same if the file is replaced by a newer version.
    ///
    /// # Errors
    /// The system does not say which it is.
    pub fn own_program() -> io::Result<PathBuf> {
        let running = Path::new("/proc/self/exe");
        if running.exists() {
            Ok(running.to_owned())
        } else {
            std::env::current_exe()
        }
    }

    /// Runs a job to its end. Dropping the future kills the child.
    ///
    /// # Errors
    /// It brought no result.
    pub async fn run(&self, job: Job<'_>) -> Result<(), Error> {
        let Job {
            limits,
            run,
            input,
            output,
            folder,
            executable,
        } = job;
        let order = Order {
            limits,
            parent: std::process::id(),
            readable: folder.into_iter().map(Path::to_owned).collect(),
            executable,
            writable: folder.into_iter().map(Path::to_owned).collect(),
            run,
        };
        let mut command = Command::new(&self.program);
        command
            .arg0("haversack")
            .arg(SUBCOMMAND)
            .arg(order.encode());
        command.stdin(input.map_or_else(Stdio::null, Stdio::from));
        command
            .stdout(output.map_or_else(Stdio::null, Stdio::from))
            .stderr(Stdio::piped());
        // Backtraces would need files that the child may not read.
        command
            .env_clear()
            .env("RUST_BACKTRACE", "0")
            .current_dir(folder.unwrap_or(Path::new("/")));
        command.kill_on_drop(true);
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().expect("it is a pipe");
        let ended = async { Ok::<_, io::Error>((message(stderr).await?, child.wait().await?)) };
        let ended = timeout(limits.deadline, ended)
            .await
            .map_err(|_| Error::TimedOut(limits.deadline))?;
        let (message, status) = ended?;
        result(status, message)
    }

    /// Runs a child that reports what holds of its confinement on this system.
    ///
    /// # Errors
    /// It cannot be run.
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

/// The start of what a child says. The rest is read and dropped, so that it never waits for a reader.
async fn message(stderr: ChildStderr) -> io::Result<String> {
    let (mut said, mut stderr) = (Vec::new(), stderr.take(MAX_MESSAGE));
    stderr.read_to_end(&mut said).await?;
    tokio::io::copy(&mut stderr.into_inner(), &mut tokio::io::sink()).await?;
    Ok(String::from_utf8_lossy(&said).trim().replace('\n', "; "))
}

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
        // Rust aborts when an allocation fails.
        (None, Some(ABORT)) if message.contains("memory allocation") => {
            Err(Error::LimitExceeded("memory"))
        }
        (None, signal) => Err(Error::Crashed(format!(
            "signal {}: {message}",
            signal.unwrap_or_default()
        ))),
    }
}

impl Order {
    fn encode(&self) -> String {
        serde_json::to_string(self).expect("paths and numbers can be written as JSON")
    }

    /// Reads the order of a child from its argument.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(argument: &OsStr) -> Result<Self, String> {
        let text = argument.to_str().ok_or("the order is not UTF-8")?;
        serde_json::from_str(text).map_err(|error| error.to_string())
    }
}
