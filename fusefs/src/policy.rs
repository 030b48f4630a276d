//! How the scheduler treats the calling thread.
//!
//! A thread that stands back (SCHED_IDLE, sched(7)) runs when nobody else on its processor wants to, and the scheduler takes
//! the processor it runs on for an idle one: whom it wakes stays there instead of being sent to another processor.
#![allow(unsafe_code)]
// JUSTIFICATION: Neither the standard library nor rustix has sched_setscheduler(2). The libc crate's wrapper is not used,
// since musl's always fails: it would treat threads as POSIX does not want. The calls take one integer that
// lives as long as they last.

use std::sync::OnceLock;

use tracing::warn;

/// Policy of the calling thread; nothing if it cannot be told.
fn policy() -> Option<i32> {
    // SAFETY: takes and returns numbers only.
    let found = unsafe { libc::syscall(libc::SYS_sched_getscheduler, 0) };
    i32::try_from(found).ok().filter(|policy| *policy >= 0)
}

/// Changes it; the nice value stays.
fn set(policy: i32) -> bool {
    // struct sched_param (sched_setscheduler(2)): a priority, which must be 0 here.
    let parameters: libc::c_int = 0;
    // SAFETY: the kernel reads one integer behind the pointer, and keeps nothing.
    unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, policy, &raw const parameters) == 0 }
}

/// Whether a thread that stands back may come forward again: not without CAP_SYS_NICE or a limit (RLIMIT_NICE) that allows it. Tried once,
/// by a thread that ends with it.
fn may_return() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| {
        let tried = std::thread::Builder::new().spawn(|| set(libc::SCHED_IDLE) && set(libc::SCHED_OTHER));
        tried.is_ok_and(|thread| thread.join().unwrap_or(false))
    })
}

/// Lets the calling thread stand back, unless somebody gave it a policy or it could not come forward again. Returns
/// whether it does.
pub(crate) fn stand_back() -> bool {
    may_return() && policy() == Some(libc::SCHED_OTHER) && set(libc::SCHED_IDLE)
}

/// Lets the calling thread come forward again.
pub(crate) fn step_up() {
    if !set(libc::SCHED_OTHER) {
        warn!("a thread that answers the kernel goes on standing back: the right to change that is gone");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stands_back_and_comes_forward() {
        std::thread::spawn(|| {
            assert_eq!(policy(), Some(libc::SCHED_OTHER));
            let back = stand_back();
            assert_eq!(back, may_return());
            assert_eq!(policy() == Some(libc::SCHED_IDLE), back);
            assert!(
                !stand_back() || !back,
                "what stands back already is left as it is"
            );
            if back {
                step_up();
            }
            assert_eq!(policy(), Some(libc::SCHED_OTHER));
        })
        .join()
        .unwrap_or_else(|_| panic!("the thread failed"));
    }
}
