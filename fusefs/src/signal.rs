//! Whether a process or thread is on its way out.

/// Whether a thread or process is being killed: SIGKILL is pending for it, or it has ended and
/// only its entry is left. One that cannot be seen is not.
pub(crate) fn being_killed(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    pid != 0 && status.is_ok_and(|status| says_killed(&status))
}

/// What `/proc/<pid>/status` says of it (proc_pid_status(5)).
fn says_killed(status: &str) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let pending = |line: &str| {
        let set = line
            .strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"))?;
        u64::from_str_radix(set.trim(), 16).ok()
    };
    let gone = |line: &str| {
        let state = line.strip_prefix("State:").map(str::trim_start);
        state.is_some_and(|state| state.starts_with(['Z', 'X']))
    };
    status
        .lines()
        .any(|line| gone(line) || pending(line).is_some_and(|set| set & SIGKILL != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_and_pending_signals() {
        for (status, killed) in [
            (
                "State:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000000",
                false,
            ),
            (
                "State:\tD (disk sleep)\nSigPnd:\t0000000000000100\nShdPnd:\t0000000000000000",
                true,
            ),
            (
                "State:\tS (sleeping)\nSigPnd:\t0000000000000000\nShdPnd:\t0000000000000100",
                true,
            ),
            (
                "State:\tS (sleeping)\nSigPnd:\t0000000000010000\nShdPnd:\t0000000000000400",
                false,
            ),
            ("State:\tZ (zombie)\nSigPnd:\t0000000000000000", true),
            ("", false),
        ] {
            assert_eq!(says_killed(status), killed, "{status}");
        }
        assert!(!being_killed(std::process::id()));
        assert!(!being_killed(0));
    }
}
