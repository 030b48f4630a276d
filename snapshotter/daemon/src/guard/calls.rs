//! System calls that the worker's capabilities would open to it and that it has no use for.
//!
//! Not a list of what is allowed: libraries, allocator, credential helpers (programs of anybody's) and kernels change, and
//! a call that is missing in such a list would be a container's read that fails. Calls that need a capability that is gone
//! (modules, clock, reboot, ports) are not in it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Refused with `EPERM`.
const REFUSED: [i64; 22] = [
    // SYS_PTRACE: other processes' memory and descriptors.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_userfaultfd,
    // DAC_READ_SEARCH: files beyond this mount namespace.
    libc::SYS_open_by_handle_at,
    // SYS_ADMIN: the kernel and the machine, other than mounts.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_fanotify_init,
    libc::SYS_syslog,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_sethostname,
    libc::SYS_pivot_root,
    // SYS_NICE: where other processes' memory lies, and threads ahead of all others by deadlines (see also [`ahead`]).
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    libc::SYS_sched_setattr,
    // No capability, and a large part of the kernel; rings also pass by this filter. One cannot be used that was not set up.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_register,
];

/// What a policy may be joined with (sched_setscheduler(2)).
const RESET_ON_FORK: i32 = libc::SCHED_RESET_ON_FORK;

/// When sched_setscheduler(2) is refused: for policies that run ahead of everything else on the machine.
fn ahead() -> Result<Vec<SeccompRule>> {
    let policy = SeccompCmpOp::MaskedEq(u64::from(!RESET_ON_FORK.cast_unsigned()));
    let of = |refused: i32| {
        let refused = u64::from(refused.cast_unsigned());
        let condition = SeccompCondition::new(1, SeccompCmpArgLen::Dword, policy.clone(), refused)?;
        Ok(SeccompRule::new(vec![condition])?)
    };
    [libc::SCHED_FIFO, libc::SCHED_RR].map(of).into_iter().collect()
}

/// Refuses these calls to this thread and all that it starts. A program of another architecture (32 bits) is ended.
///
/// # Errors
/// The kernel has no filters, or not for this architecture.
pub(super) fn refuse() -> Result<()> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).context("this architecture")?;
    let mut rules: BTreeMap<i64, Vec<_>> = REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    rules.insert(libc::SYS_sched_setscheduler, ahead()?);
    let refusal = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, architecture)?;
    let program = BpfProgram::try_from(filter)?;
    seccompiler::apply_filter(&program).context("the filter")
}
