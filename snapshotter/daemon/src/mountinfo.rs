//! What is mounted where, read from /proc/self/mountinfo: unlike stat(2) it never asks a file system that may hang.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One line of mountinfo, as far as we need it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// Unique as long as it is mounted.
    pub(crate) id: u64,
    /// `major:minor`
    pub(crate) device: String,
    /// Where.
    pub(crate) point: PathBuf,
    /// File system type.
    pub(crate) kind: String,
    /// What was mounted, as whoever mounted it named it.
    pub(crate) source: OsString,
}

/// All mounts of this process's mount namespace, in order of mounting: of several on one place the last is on top.
///
/// # Errors
/// /proc is not there.
pub(crate) fn mounts() -> std::io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// The topmost mount at exactly `point`.
///
/// # Errors
/// As [`mounts`].
pub(crate) fn mount_at(point: &Path) -> std::io::Result<Option<Mount>> {
    Ok(mounts()?.into_iter().rev().find(|mount| mount.point == point))
}

fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(line).collect()
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc(5)).
fn line(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let id = std::str::from_utf8(fields.first()?).ok()?.parse().ok()?;
    let device = String::from_utf8_lossy(fields.get(2)?).into_owned();
    let point = PathBuf::from(OsString::from_vec(unescape(fields.get(4)?)));
    let kind = String::from_utf8_lossy(fields.get(dash + 1)?).into_owned();
    let source = OsString::from_vec(unescape(fields.get(dash + 2)?));
    Some(Mount {
        id,
        device,
        point,
        kind,
        source,
    })
}

/// Space, tab, newline and backslash stand as `\040` and so on.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        if let (b'\\', Some(code)) = (byte, tail.get(..3).and_then(octal)) {
            plain.push(code);
            rest = &tail[3..];
        } else {
            plain.push(byte);
            rest = tail;
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_are_read_with_their_escapes() {
        let text = b"22 1 0:20 / /proc rw - proc proc rw\n\
            40 22 0:53 / /var/lib/with\\040space/data rw,nosuid shared:5 master:1 - fuse.lacewing lacewing rw\n\
            broken line\n";
        let mounts = parse(text);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[1].id, mounts[1].source.to_str()), (40, Some("lacewing")));
        assert_eq!(mounts[1].point, Path::new("/var/lib/with space/data"));
        assert_eq!(
            (mounts[1].device.as_str(), mounts[1].kind.as_str()),
            ("0:53", "fuse.lacewing")
        );
    }

    #[test]
    fn what_is_no_escape_stays() {
        assert_eq!(unescape(b"a\\9b\\134"), b"a\\9b\\");
        assert_eq!(unescape(b"\\04"), b"\\04");
    }

    #[test]
    fn our_own_mounts_are_readable() {
        assert!(mount_at(Path::new("/proc")).unwrap().is_some());
        assert!(mount_at(Path::new("/no such place")).unwrap().is_none());
    }
}
