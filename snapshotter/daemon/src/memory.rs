//! Keeps what the allocator holds near what is in use.

#![allow(unsafe_code)]
// JUSTIFICATION: the C library gives each thread a heap of its own, up to eight for each processor, and what a thread has
// freed there stays with it. Two dozen threads that each decoded frames once held a third of a daemon's resident memory.
// The bounds are to be had by mallopt(3), or by environment variables that must be set before the program starts.

/// Heaps that all threads share. One alone would be waited for; more gained nothing on two processors, and what is
/// allocated often is small.
#[cfg(target_env = "gnu")]
const HEAPS: libc::c_int = 2;

/// Bytes free at the end of a heap that go back to the system: what a burst of indexes took does not stay.
#[cfg(target_env = "gnu")]
const TRIM: libc::c_int = 128 << 10;

/// Bounds what heaps keep, for programs that run for long. Call it before there are threads.
#[cfg(target_env = "gnu")]
pub(crate) fn bound() {
    for (parameter, value) in [(libc::M_ARENA_MAX, HEAPS), (libc::M_TRIM_THRESHOLD, TRIM)] {
        // SAFETY: a parameter by number and a value; nothing of ours is pointed to. A value that it does not like is
        // answered with 0 and changes nothing.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Other C libraries have no such heaps.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn bound() {}
