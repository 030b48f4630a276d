//! What the kernel must have: EROFS over plain files, FUSE, overlayfs.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use super::Finding;

/// EROFS mounts of plain files came with Linux 6.12.
const FILE_BACKED: (u32, u32) = (6, 12);
/// /dev/fuse is the character device 10:229 (Documentation/admin-guide/devices.txt).
const FUSE_DEVICE: (u32, u32) = (10, 229);

pub(super) fn look() -> Vec<Finding> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let mut findings = vec![version(release.trim())];
    findings.extend(
        ["erofs", "fuse", "overlay"].map(|name| file_system(name, &known, has_module(name, release.trim()))),
    );
    findings.push(device());
    findings
}

fn version(release: &str) -> Finding {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(str::parse::<u32>);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::warning(
            "kernel",
            format!("release {release:?}"),
            "it should be Linux 6.12 or later",
        );
    };
    if (major, minor) >= FILE_BACKED {
        return Finding::ok("kernel", format!("Linux {release}"));
    }
    Finding::warning(
        "kernel",
        format!("Linux {release} does not mount EROFS from plain files"),
        "use Linux 6.12 or later for layers that the kernel itself shows",
    )
}

fn file_system(name: &'static str, known: &str, module: bool) -> Finding {
    let listed = known
        .lines()
        .any(|line| line.split_whitespace().last() == Some(name));
    match (listed, module) {
        (true, _) => Finding::ok(name, "the kernel has it"),
        (false, true) => Finding::ok(name, "the kernel has it as a module"),
        (false, false) => Finding::problem(
            name,
            format!("the kernel has no file system {name}"),
            format!(
                "install the kernel's module package and run `modprobe {name}`, or use a kernel built with it"
            ),
        ),
    }
}

/// Whether a module of that name is there to be loaded when it is needed.
fn has_module(name: &str, release: &str) -> bool {
    let name = if name == "overlay" {
        "overlayfs/overlay.ko"
    } else {
        &format!("{name}/{name}.ko")
    };
    let list = std::fs::read_to_string(format!("/lib/modules/{release}/modules.dep")).unwrap_or_default();
    list.lines().any(|line| line.contains(name))
}

fn device() -> Finding {
    let advice = "run `modprobe fuse`; in a container, give it /dev/fuse";
    let Ok(found) = std::fs::metadata("/dev/fuse") else {
        return Finding::problem("/dev/fuse", "is missing", advice);
    };
    let number = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
    if found.file_type().is_char_device() && number == FUSE_DEVICE {
        return Finding::ok("/dev/fuse", "is there");
    }
    Finding::problem("/dev/fuse", "is not the FUSE device", advice)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn old_kernels_and_missing_file_systems_are_seen() {
        assert_eq!(version("6.18.2-1-amd64").verdict, Verdict::Ok);
        assert_eq!(version("6.1.0-25-amd64").verdict, Verdict::Warning);
        assert_eq!(version("5.15").verdict, Verdict::Warning);
        assert_eq!(version("unknown").verdict, Verdict::Warning);
        let known = "nodev\tproc\n\text4\n\terofs\n";
        assert_eq!(file_system("erofs", known, false).verdict, Verdict::Ok);
        assert_eq!(file_system("fuse", known, true).verdict, Verdict::Ok);
        assert_eq!(file_system("fuse", known, false).verdict, Verdict::Problem);
    }
}
