//! Decoder processes: their limits and confinement, and their end with the request they serve.

use std::path::{Path, PathBuf};
use std::time::Duration;

use haversack::sandbox::{Confinement, Error, Job, Limits, Run, Sandbox};

use haversack_testkit::{each_case_async, until, within};

const LIMITS: Limits = Limits {
    memory: 256 << 20,
    cpu_seconds: 1,
    output: 1 << 20,
    deadline: Duration::from_secs(20),
};

fn sandbox() -> Sandbox {
    Sandbox::new(haversack_testkit::program::path())
}

/// Returns a job that runs a shell command in a folder.
fn shell<'a>(command: &str, folder: &'a Path, limits: Limits) -> Job<'a> {
    let executable = ["/bin", "/usr", "/lib", "/lib64"]
        .map(PathBuf::from)
        .to_vec();
    let run = Run::Program("/bin/sh".into(), vec!["-c".into(), command.into()]);
    Job {
        limits,
        run,
        input: None,
        output: None,
        folder: Some(folder),
        executable,
    }
}

async fn run(command: &str, limits: Limits) -> Result<(), Error> {
    let folder = tempfile::tempdir().expect("folder");
    within(sandbox().run(shell(command, folder.path(), limits))).await
}

/// Returns the processes whose command line contains this text.
pub fn processes(text: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains(text))
    })
    .filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        // A zombie has already ended.
        !status.is_empty() && !status.contains("State:\tZ")
    })
    .collect()
}

/// Returns true if the kernel supports Landlock.
fn has_landlock() -> bool {
    use landlock::{AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr};
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    ruleset
        .handle_access(AccessFs::ReadFile)
        .and_then(landlock::Ruleset::create)
        .is_ok()
}

#[tokio::test]
async fn confined_process_has_limits_and_no_files_or_network() {
    let holds = sandbox().probe().await.expect("probe");
    let expected = Confinement {
        limited: true,
        dies_with_parent: true,
        no_files: has_landlock(),
        no_network: true,
        no_processes: true,
    };
    assert_eq!(holds, expected);
}

#[tokio::test]
async fn endless_loop_ends_at_cpu_limit() {
    let ended = run("while :; do :; done", LIMITS).await;
    assert!(
        matches!(ended, Err(Error::LimitExceeded("CPU time"))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn endless_output_ends_at_output_limit() {
    let ended = run("while echo 0123456789; do :; done > out", LIMITS).await;
    assert!(
        matches!(ended, Err(Error::LimitExceeded("output"))),
        "{ended:?}"
    );
}

#[tokio::test]
async fn device_file_is_not_readable() {
    if !has_landlock() {
        return;
    }
    let ended = run("exec head -c 100000000 /dev/zero > out", LIMITS).await;
    assert!(matches!(ended, Err(Error::Failed { .. })), "{ended:?}");
}

#[tokio::test]
async fn waiting_program_is_killed_at_deadline() {
    let limits = Limits {
        deadline: Duration::from_millis(300),
        ..LIMITS
    };
    let ended = run("exec sleep 4711.1", limits).await;
    assert!(
        matches!(&ended, Err(error @ Error::TimedOut(_)) if !error.is_caused_by_input()),
        "{ended:?}"
    );
    until(async || processes("4711.1").is_empty().then_some(())).await;
}

#[tokio::test]
async fn program_cannot_access_files_outside_its_folder() {
    if !has_landlock() {
        return;
    }
    each_case_async(
        [
            "cat /etc/passwd",
            "cat /proc/1/environ",
            "ls /tmp",
            "echo x > /tmp/haversack-escaped",
        ],
        async |command| {
            let ended = run(command, LIMITS).await;
            assert!(
                matches!(ended, Err(Error::Failed { .. })),
                "{command}: {ended:?}"
            );
        },
    )
    .await;
    assert!(
        run("echo x > out && exec cat out", LIMITS).await.is_ok(),
        "its own folder is accessible"
    );
}

#[tokio::test]
async fn program_cannot_fork() {
    let ended = run("sleep 4711.3 & wait", LIMITS).await;
    assert!(
        matches!(&ended, Err(Error::Failed { message, .. }) if message.contains("fork")),
        "{ended:?}"
    );
    assert!(processes("4711.3").is_empty());
}

#[tokio::test]
async fn dropped_future_kills_the_program() {
    let folder = tempfile::tempdir().expect("folder");
    let limits = Limits {
        deadline: Duration::from_mins(10),
        ..LIMITS
    };
    let path = folder.path().to_owned();
    let running = tokio::spawn(async move {
        sandbox()
            .run(shell("exec sleep 4711.2", &path, limits))
            .await
    });
    until(async || (!processes("sleep\x004711.2").is_empty()).then_some(())).await;
    running.abort();
    until(async || processes("4711.2").is_empty().then_some(())).await;
}
