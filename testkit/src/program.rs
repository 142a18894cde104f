//! The haversack program as a process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// Texts of which the startup message contains one in its last line.
const STARTUP_ENDS: [&str; 3] = ["-d '{", "--show-key", "Haversack serves"];

/// Returns the path of the program under test.
///
/// Cargo sets the variable when it runs an integration test of haversack. It is read at run time,
/// because at compile time it is set for these tests only and not for this crate.
pub fn path() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_haversack")
        .expect(
            "CARGO_BIN_EXE_haversack is set by `cargo test`; set it to run a test binary directly",
        )
        .into()
}

/// Returns a command of the program with its own data folder and without the developer's settings.
pub fn haversack(data_dir: &Path) -> Command {
    let mut command = Command::new(path());
    let is_setting = |name: &str| {
        ["HAVERSACK_", "LINQ_", "AWS_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for (name, _) in std::env::vars().filter(|(name, _)| is_setting(name)) {
        command.env_remove(name);
    }
    command
        .env("HAVERSACK_DATA_DIR", data_dir)
        .env("HAVERSACK_LISTEN", "127.0.0.1:0");
    command
}

/// Runs a command without standard input to its end.
pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8")
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

/// A server process, killed when dropped.
pub struct Server {
    pub child: Child,
    /// The startup message on standard output.
    pub banner: String,
}

impl Server {
    /// Starts a server with default settings and waits for its startup message.
    pub fn start(data_dir: &Path) -> Self {
        Self::run(haversack(data_dir).arg("serve"))
    }

    /// Starts a server by this command, and discards its log.
    pub fn run(command: &mut Command) -> Self {
        Self::run_logged(command, Stdio::null())
    }

    /// Starts a server by this command, with its log going to `log`.
    pub fn run_logged(command: &mut Command, log: impl Into<Stdio>) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut banner = String::new();
        while !STARTUP_ENDS.iter().any(|end| banner.contains(end)) {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("the server ended after {banner:?}"));
            banner.push_str(&line.expect("UTF-8"));
            banner.push('\n');
        }
        Self { child, banner }
    }

    /// Returns the rest of the line of the startup message that begins with `label`.
    pub fn banner_value(&self, label: &str) -> &str {
        let line = self
            .banner
            .lines()
            .find_map(|line| line.trim().strip_prefix(label));
        line.unwrap_or_else(|| panic!("no {label} in {}", self.banner))
            .trim()
    }

    /// Returns the peak resident memory in bytes (`VmHWM`, proc(5)).
    pub fn peak_memory(&self) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .expect("VmHWM");
        line.trim()
            .trim_end_matches(" kB")
            .parse::<u64>()
            .expect("a number")
            * 1024
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    /// Waits for the process to end, and returns its exit code.
    pub fn wait(mut self) -> Option<i32> {
        self.child.wait().expect("end").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
