//! Confines the current process, a child of the server: drops privileges and sets resource limits
//! before any input is read.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};

use super::{ChildSpec, Limits, Run};

/// Maximum number of files that a child process may have open.
const MAX_OPEN_FILES: u64 = 64;
/// Niceness of a child process, which lets the server and other programs have the CPU first.
const NICENESS: i32 = 5;

/// The restrictions found to be in effect in a process by `probe`.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// Address space, CPU time and file size are limited.
    pub limited: bool,
    /// The kernel kills the process when the server dies.
    pub dies_with_parent: bool,
    pub no_files: bool,
    pub no_network: bool,
    /// No other process can be started.
    pub no_processes: bool,
}

/// Confines this process irrevocably. Landlock and seccomp restrictions apply as far as the kernel
/// supports them; [`probe`] reports which are in effect.
///
/// # Errors
/// Returns an error if a limit cannot be set or the server has exited.
pub(crate) fn confine(spec: &ChildSpec) -> io::Result<()> {
    die_with_parent(spec.parent)?;
    // Errors are ignored: lower priority is not essential, and some systems forbid changing it.
    let _ = rustix::process::nice(NICENESS);
    let own_memory = if matches!(spec.run, Run::Program(..)) {
        0
    } else {
        address_space()
    };
    set_limits(&spec.limits, own_memory)?;
    restrict(spec)
}

fn set_limits(limits: &Limits, own_memory: u64) -> io::Result<()> {
    let set = |resource, maximum: u64| {
        let limit = Rlimit {
            current: Some(maximum),
            maximum: Some(maximum),
        };
        setrlimit(resource, limit).map_err(io::Error::from)
    };
    set(Resource::Core, 0)?;
    set(Resource::Nofile, MAX_OPEN_FILES)?;
    set(Resource::Fsize, limits.output)?;
    // SIGXCPU at the soft limit shows that CPU time ran out; SIGKILL follows at the hard limit.
    let cpu = Rlimit {
        current: Some(limits.cpu_seconds),
        maximum: Some(limits.cpu_seconds + 1),
    };
    setrlimit(Resource::Cpu, cpu)?;
    set(Resource::As, own_memory.saturating_add(limits.memory))
}

/// Returns the size of this process's address space in bytes, or 0 if it cannot be determined.
fn address_space() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| {
        text.split(' ')
            .next()
            .and_then(|pages| pages.parse::<u64>().ok())
    });
    pages
        .unwrap_or(0)
        .saturating_mul(rustix::param::page_size() as u64)
}

#[cfg(target_os = "linux")]
fn die_with_parent(parent: u32) -> io::Result<()> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The server may have exited before the parent-death signal was set.
    let alive =
        getppid().is_some_and(|pid| i64::from(pid.as_raw_nonzero().get()) == i64::from(parent));
    if alive {
        Ok(())
    } else {
        Err(io::Error::other("the server has exited"))
    }
}

#[cfg(not(target_os = "linux"))]
fn die_with_parent(_: u32) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn restrict(spec: &ChildSpec) -> io::Result<()> {
    landlock(spec).map_err(io::Error::other)?;
    // There are no filters on architectures that `seccompiler` does not support; `probe` reports
    // the missing restrictions.
    for filter in system_call_filters(matches!(spec.run, Run::Program(..)))
        .into_iter()
        .flatten()
    {
        seccompiler::apply_filter(&filter).map_err(io::Error::other)?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn restrict(_: &ChildSpec) -> io::Result<()> {
    Ok(())
}

/// Restricts file access to the paths in the spec, and denies TCP and sending signals to other
/// processes, as far as the kernel supports it (landlock(7)).
#[cfg(target_os = "linux")]
fn landlock(spec: &ChildSpec) -> Result<(), landlock::RulesetError> {
    use landlock::{
        ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetCreatedAttr, Scope,
        path_beneath_rules,
    };
    let abi = ABI::V6;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let existing = |paths: &[PathBuf]| {
        paths
            .iter()
            .filter(|path| path.exists())
            .cloned()
            .collect::<Vec<_>>()
    };
    Ruleset::default()
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(path_beneath_rules(existing(&spec.readable), read))?
        .add_rules(path_beneath_rules(
            existing(&spec.executable),
            read | AccessFs::Execute,
        ))?
        .add_rules(path_beneath_rules(
            existing(&spec.writable),
            AccessFs::from_all(abi) & !AccessFs::Execute,
        ))?
        .restrict_self()?;
    Ok(())
}

/// Returns seccomp filters that deny system calls for networking, for starting or affecting other
/// processes, and for kernel interfaces that no decoder needs. A confined process can start threads
/// but no processes, so killing it leaves nothing running. Only `ffmpeg` may use `execve`.
#[cfg(target_os = "linux")]
fn system_call_filters(may_exec: bool) -> Option<Vec<seccompiler::BpfProgram>> {
    use seccompiler::{
        SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
        SeccompRule, TargetArch,
    };
    let architecture = TargetArch::try_from(std::env::consts::ARCH).ok()?;
    let filter =
        |refused: Vec<(i64, Vec<SeccompRule>)>, error: i32| -> Option<seccompiler::BpfProgram> {
            let refuse = SeccompAction::Errno(error.unsigned_abs());
            let refused = refused.into_iter().collect();
            SeccompFilter::new(refused, SeccompAction::Allow, refuse, architecture)
                .ok()?
                .try_into()
                .ok()
        };
    let mut refused: Vec<_> = REFUSED_CALLS
        .iter()
        .map(|call| (*call, Vec::new()))
        .collect();
    if !may_exec {
        refused.extend([libc::SYS_execve, libc::SYS_execveat].map(|call| (call, Vec::new())));
    }
    #[cfg(target_arch = "x86_64")]
    refused.extend([libc::SYS_fork, libc::SYS_vfork].map(|call| (call, Vec::new())));
    // clone(2) without CLONE_THREAD starts a process.
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    let process = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(thread),
        0,
    )
    .ok()?;
    refused.push((libc::SYS_clone, vec![SeccompRule::new(vec![process]).ok()?]));
    // A seccomp filter cannot read the flags of clone3(2), because they are in memory. So clone3 is
    // reported as not implemented, and C libraries fall back to clone(2).
    Some(vec![
        filter(refused, libc::EPERM)?,
        filter(vec![(libc::SYS_clone3, Vec::new())], libc::ENOSYS)?,
    ])
}

#[cfg(target_os = "linux")]
const REFUSED_CALLS: [i64; 17] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_io_uring_setup,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
];

/// Returns the restrictions in effect in this process. Most are tested by trying an operation that
/// must be denied.
pub(crate) fn probe() -> Confinement {
    let is_limited = |resource| rustix::process::getrlimit(resource).current.is_some();
    let program = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("/bin/sh"));
    let can_open = [program.as_path(), Path::new("/etc/hosts"), Path::new("/")]
        .iter()
        .any(|path| File::open(path).is_ok());
    Confinement {
        limited: [Resource::As, Resource::Cpu, Resource::Fsize]
            .into_iter()
            .all(is_limited),
        dies_with_parent: dies_with_parent(),
        no_files: !can_open,
        no_network: std::net::UdpSocket::bind("127.0.0.1:0").is_err(),
        no_processes: std::process::Command::new("/proc/self/exe")
            .arg("--version")
            .status()
            .is_err(),
    }
}

#[cfg(target_os = "linux")]
fn dies_with_parent() -> bool {
    rustix::process::parent_process_death_signal().is_ok_and(|signal| signal.is_some())
}

#[cfg(not(target_os = "linux"))]
fn dies_with_parent() -> bool {
    false
}
