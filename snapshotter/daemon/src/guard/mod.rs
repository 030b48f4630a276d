//! What the worker gives up before it touches anything from outside, for good, and for all that it starts.
//!
//! | given up | why |
//! |---|---|
//! | core dumps, and being read by processes of the same user | memory holds credentials |
//! | capabilities that nothing here needs | [`KEPT`] has the others, each with what for |
//! | system calls that the kept capabilities would open | [`calls`] |
//! | privileges by set-user-ID programs | nothing that is started here needs them |
//!
//! The supervisor gives up core dumps alone: it mounts, turns into the next release and starts workers, and reads nothing
//! from outside. Landlock is not used, because a process under it may not mount (landlock(7)).
//!
//! Where the system does not let go of something (a container with rules of its own), the worker says so and serves:
//! containers read through it.

mod calls;

use anyhow::{Context, Result};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use tracing::warn;

/// What the worker keeps, and for what:
/// - mounts, `trusted.*` attributes, FUSE: `SYS_ADMIN`;
/// - files of all owners in layers' and containers' directories: `CHOWN`, `DAC_OVERRIDE`, `DAC_READ_SEARCH`, `FOWNER`,
///   `FSETID`, `MKNOD`, `SETFCAP`;
/// - maps of user namespaces: `SETUID`, `SETGID`, `SETFCAP`; to open such a namespace, whose process cannot be dumped
///   either: `SYS_PTRACE`;
/// - room that a file system reserves for root, and limits: `SYS_RESOURCE`;
/// - ending a credential helper that took another user's id: `KILL`;
/// - threads that stand back behind who walks a tree, and come forward again (SCHED_IDLE, sched(7)): `SYS_NICE`;
/// - a port below 1024 for metrics or peers: `NET_BIND_SERVICE`.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::CHOWN)
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_RESOURCE)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SYS_NICE)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// Numbers that capabilities have or may get: the kernel's sets have 64 bits.
const NUMBERS: u32 = u64::BITS;

type Step = fn() -> Result<()>;

/// One byte is too little for a core file; and at this limit, not at 0, the kernel does not give a core to a handler
/// (`|` in core_pattern) either: `fs/coredump.c`.
const NO_CORE: u64 = 1;

/// No core of this process, nor of what it starts. Of the supervisor: an exec, as at an upgrade, keeps it.
///
/// # Errors
/// The system refuses.
pub(crate) fn no_core_files() -> Result<()> {
    let both = |bytes| Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    setrlimit(Resource::Core, both(NO_CORE))
        // One without privileges whose limit is 0 cannot raise it.
        .or_else(|_| setrlimit(Resource::Core, both(0)))
        .context("the limit of core files")
}

/// Gives up all of the above, as far as the system lets it. All but the first is a thread's own: call it while there is
/// one thread.
pub(crate) fn give_up() {
    let steps: [(&str, Step); 4] = [
        ("core dumps", no_dumps),
        ("capabilities", drop_capabilities),
        ("new privileges", || Ok(set_no_new_privs(true)?)),
        ("system calls", calls::refuse),
    ];
    for (what, step) in steps {
        if let Err(error) = step() {
            warn!("going on without giving up {what}: {error:#}");
        }
    }
}

/// Nothing of this process's memory is written to a core file or handed to a dump's handler, nor shown to a process without
/// `SYS_PTRACE`. An exec takes the second back, so what is started here is as open as ever.
fn no_dumps() -> Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("being dumped")?;
    no_core_files()
}

fn drop_capabilities() -> Result<()> {
    let held = capabilities(None).context("reading capabilities")?;
    // What a program that root starts would get back. Taking it away is a privilege of its own, which is not always held.
    if held.effective.contains(CapabilitySet::SETPCAP) {
        for bit in (0..NUMBERS).map(|number| CapabilitySet::from_bits_retain(1 << number)) {
            // An error: the kernel has no such capability.
            let there = capability_is_in_bounding_set(bit).unwrap_or(false);
            if there && !KEPT.contains(bit) {
                remove_capability_from_bounding_set(bit).context("the bounding set")?;
            }
        }
    }
    let kept = CapabilitySets {
        effective: held.effective.intersection(KEPT),
        permitted: held.permitted.intersection(KEPT),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, kept).context("dropping capabilities")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::thread::{SecureComputingMode, no_new_privs, secure_computing_mode};

    /// All that is looked at here is a thread's own; the test's other threads keep theirs.
    fn alone(test: fn()) {
        std::thread::spawn(test).join().unwrap();
    }

    #[test]
    fn what_is_not_kept_is_gone() {
        alone(|| {
            let before = capabilities(None).unwrap();
            drop_capabilities().unwrap();
            let after = capabilities(None).unwrap();
            assert_eq!(after.permitted, before.permitted.intersection(KEPT));
            assert_eq!(after.effective, before.effective.intersection(KEPT));
            assert_eq!(after.inheritable, CapabilitySet::empty());
            if before.effective.contains(CapabilitySet::SETPCAP) {
                for gone in [
                    CapabilitySet::SYS_MODULE,
                    CapabilitySet::NET_ADMIN,
                    CapabilitySet::BPF,
                ] {
                    assert!(!capability_is_in_bounding_set(gone).unwrap(), "{gone:?}");
                }
                assert!(capability_is_in_bounding_set(CapabilitySet::SYS_ADMIN).unwrap());
            }
            // Once more, without the privilege to do it.
            drop_capabilities().unwrap();
        });
    }

    /// As `util-linux` changes it: of itself, and of what it starts.
    fn scheduled(words: &[&str]) -> bool {
        let mut chrt = std::process::Command::new("chrt");
        chrt.args(words).stderr(std::process::Stdio::null());
        chrt.status().unwrap().success()
    }

    #[test]
    fn a_thread_may_stand_back_and_come_forward_but_not_push_ahead() {
        alone(|| {
            let nice = capabilities(None).unwrap().permitted;
            drop_capabilities().unwrap();
            set_no_new_privs(true).unwrap();
            calls::refuse().unwrap();
            assert!(scheduled(&["--idle", "0", "true"]));
            if nice.contains(CapabilitySet::SYS_NICE) {
                assert!(scheduled(&["--idle", "0", "chrt", "--other", "0", "true"]));
            }
            for ahead in ["--fifo", "--rr"] {
                assert!(!scheduled(&[ahead, "1", "true"]), "{ahead}");
                assert!(!scheduled(&["--reset-on-fork", ahead, "1", "true"]), "{ahead}");
            }
            let deadline = "--deadline --sched-runtime 1000000 --sched-period 9000000 0 true";
            assert!(!scheduled(&deadline.split(' ').collect::<Vec<_>>()));
        });
    }

    #[test]
    fn calls_are_refused_and_others_are_not() {
        alone(|| {
            assert!(crate::fds::adopt(2).is_ok());
            set_no_new_privs(true).unwrap();
            calls::refuse().unwrap();
            assert!(no_new_privs().unwrap());
            assert_eq!(secure_computing_mode().unwrap(), SecureComputingMode::Filter);
            assert_eq!(crate::fds::adopt(2).unwrap_err(), rustix::io::Errno::PERM);
            assert!(std::process::Command::new("true").status().unwrap().success());
        });
    }
}
