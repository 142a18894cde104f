//! The program itself, as a process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The program with a data folder of its own and nothing of the developer's settings.
pub fn haversack(data_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_haversack"));
    let settings = |name: &str| {
        ["HAVERSACK_", "LINQ_", "AWS_"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    for (name, _) in std::env::vars().filter(|(name, _)| settings(name)) {
        command.env_remove(name);
    }
    command
        .env("HAVERSACK_DATA_DIR", data_dir)
        .env("HAVERSACK_LISTEN", "127.0.0.1:0");
    command
}

pub fn run(command: &mut Command) -> Output {
    command
        .stdin(Stdio::null())
        .output()
        .expect("the program runs")
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("text")
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("text")
}

/// A server process and what it said.
pub struct Server {
    pub child: Child,
    pub welcome: String,
}

impl Server {
    /// Starts one and waits until it has said where it is.
    pub fn start(data_dir: &Path) -> Self {
        Self::run(haversack(data_dir).arg("serve"))
    }

    /// The same of a command with settings.
    pub fn run(command: &mut Command) -> Self {
        Self::logging(command, Stdio::null())
    }

    /// The same with a place for its log.
    pub fn logging(command: &mut Command, log: impl Into<Stdio>) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(child.stdout.take().expect("stdout")).lines();
        let mut welcome = String::new();
        // One that has no key to show says less.
        while !["-d '{", "--show-key", "Haversack serves"]
            .iter()
            .any(|end| welcome.contains(end))
        {
            let line = lines
                .next()
                .unwrap_or_else(|| panic!("the server ended after {welcome:?}"));
            welcome.push_str(&line.expect("text"));
            welcome.push('\n');
        }
        Self { child, welcome }
    }

    /// The value after a word of the welcome.
    pub fn said(&self, what: &str) -> &str {
        let line = self
            .welcome
            .lines()
            .find_map(|line| line.trim().strip_prefix(what));
        line.unwrap_or_else(|| panic!("no {what} in {}", self.welcome))
            .trim()
    }

    /// The most memory it has held, in bytes (proc(5)).
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

    /// Sends it a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signal");
    }

    /// Waits for its end; the exit code.
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
