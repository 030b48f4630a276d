//! Which files a container's start reads first: a static guess from path, mode and the image's config.
//!
//! The guess decides the order of frames in a blob, and what a node fetches before it is asked. It never decides what is
//! stored. With no recorded trace, rules that hold for most images do: the program that the config names, dynamic
//! loader, libraries in the system's folders, an interpreter's own modules, configuration in `/etc`; and, at the other
//! end, documentation, translations, headers and tests, which no start reads. With one ([`crate::record`]) nothing is
//! guessed to be fetched.

use crate::blob::Place;

/// A record says that it is read; no path has this rank by itself.
pub(crate) const RECORDED: u8 = 0;
/// Most read at every start.
pub(crate) const FIRST: u8 = 1;
/// Likely read.
pub(crate) const LIKELY: u8 = 2;
/// Nothing is known.
pub(crate) const USUAL: u8 = 3;
/// Hardly ever read.
pub(crate) const COLD: u8 = 4;
/// Count of ranks.
pub(crate) const RANKS: usize = 5;

/// Chunks that a node should fetch before it is asked for them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hot {
    /// With what orders them: the record's line, or the rank that was guessed.
    pub(crate) chunks: Vec<(u32, Place)>,
    /// Whether a record says so.
    pub(crate) recorded: bool,
}

/// Larger files are read in parts, if at all: no reason to fetch them whole before they are asked for.
const MAX_HOT_FILE: u64 = 32 << 20;

/// Paths that the image's config names: entry point, command, working directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Hints {
    programs: Vec<Vec<u8>>,
    folder: Vec<u8>,
}

impl Hints {
    /// Takes what an image config says. A name without a slash is looked for in the usual folders.
    pub(crate) fn new(commands: &[String], folder: &str) -> Self {
        let mut programs = Vec::new();
        for command in commands.iter().filter(|c| !c.is_empty() && !c.starts_with('-')) {
            programs.push(command.trim_start_matches("./").as_bytes().to_vec());
        }
        let folder = folder.trim_matches('/');
        Self {
            programs,
            folder: if folder.is_empty() {
                Vec::new()
            } else {
                format!("/{folder}/").into_bytes()
            },
        }
    }

    fn names(&self, path: &[u8]) -> bool {
        let name = name(path);
        self.programs.iter().any(|p| {
            if p.contains(&b'/') {
                path.ends_with(p)
            } else {
                name == p && is_program(path)
            }
        })
    }
}

fn name(path: &[u8]) -> &[u8] {
    path.rsplit(|&b| b == b'/').next().unwrap_or(path)
}

fn has(path: &[u8], part: &[u8]) -> bool {
    path.windows(part.len()).any(|w| w == part)
}

fn is_program(path: &[u8]) -> bool {
    [&b"/bin/"[..], b"/sbin/"].iter().any(|dir| has(path, dir))
}

/// Ranks a file by its absolute path.
pub(crate) fn rank(path: &[u8], mode: u32, size: u64, hints: &Hints) -> u8 {
    if hints.names(path) && size <= MAX_HOT_FILE {
        return FIRST;
    }
    if is_cold(path) {
        return COLD;
    }
    let name = name(path);
    let system_library = has(path, b"/lib/x86_64-linux-gnu/")
        || has(path, b"/lib/aarch64-linux-gnu/")
        || path.starts_with(b"/lib/")
        || path.starts_with(b"/lib64/")
        || path.starts_with(b"/usr/lib64/");
    if system_library && has(name, b".so") && !has(path, b"/gconv/") && size <= 8 << 20 {
        let core = [
            &b"ld-"[..],
            b"ld.",
            b"libc.",
            b"libc-",
            b"libm.",
            b"libdl",
            b"libpthread",
            b"libgcc_s",
            b"libz.",
        ];
        return if core.iter().any(|c| name.starts_with(c)) {
            FIRST
        } else {
            LIKELY
        };
    }
    if path.starts_with(b"/etc/") && size <= 64 << 10 || path == b"/usr/lib/os-release" {
        return FIRST;
    }
    if [
        &b"/bin/sh"[..],
        b"/usr/bin/sh",
        b"/bin/dash",
        b"/usr/bin/dash",
        b"/bin/busybox",
    ]
    .contains(&path)
    {
        return FIRST;
    }
    if is_standard_module(path, name) || is_runtime(name, size) {
        return LIKELY;
    }
    let in_workdir =
        !hints.folder.is_empty() && path.starts_with(&hints.folder) && !has(path, b"/node_modules/");
    if in_workdir && size <= 1 << 20 {
        return LIKELY;
    }
    let _ = mode;
    USUAL
}

/// An interpreter's own modules: of Python those that every start imports, compiled or not.
fn is_standard_module(path: &[u8], name: &[u8]) -> bool {
    if !has(path, b"/lib/python3") || has(path, b"-packages/") {
        return false;
    }
    if has(path, b"/encodings/") {
        return [&b"__init__"[..], b"aliases", b"utf_8", b"latin_1", b"ascii"]
            .iter()
            .any(|n| name.starts_with(n));
    }
    let start = [
        &b"os."[..],
        b"site.",
        b"abc.",
        b"codecs.",
        b"io.",
        b"stat.",
        b"posixpath.",
        b"genericpath.",
        b"_collections_abc.",
        b"_sitebuiltins.",
        b"re",
        b"enum.",
        b"types.",
        b"functools.",
        b"collections",
        b"importlib",
        b"warnings.",
        b"typing.",
        b"json",
        b"logging",
    ];
    start.iter().any(|n| name.starts_with(n))
}

/// Files that a runtime opens first: of a JVM its library, archive of classes and settings.
fn is_runtime(name: &[u8], size: u64) -> bool {
    let jvm = [
        &b"libjvm.so"[..],
        b"libjli.so",
        b"libjava.so",
        b"jvm.cfg",
        b"libzip.so",
        b"libjimage.so",
    ];
    let node = [&b"libnode.so"[..]];
    size <= MAX_HOT_FILE && (jvm.contains(&name) || node.iter().any(|n| name.starts_with(n)))
}

fn is_cold(path: &[u8]) -> bool {
    let folders = [
        &b"/share/doc/"[..],
        b"/share/man/",
        b"/share/info/",
        b"/share/locale/",
        b"/share/i18n/",
        b"/share/lintian/",
        b"/share/bash-completion/",
        b"/share/perl",
        b"/usr/include/",
        b"/usr/src/",
        b"/var/lib/dpkg/",
        b"/var/cache/",
        b"/tests/",
        b"/test/",
        b"/testing/",
        b"/docs/",
        b"/examples/",
        b"/gconv/",
        b"/__tests__/",
    ];
    let endings = [
        &b".a"[..],
        b".h",
        b".hpp",
        b".pyi",
        b".d.ts",
        b".d.mts",
        b".d.cts",
        b".map",
        b".md",
        b".markdown",
        b".rst",
        b".pxd",
        b".pyx",
        b".gz",
        b"/RECORD",
        b"/LICENSE",
        b"/LICENSE.txt",
    ];
    folders.iter().any(|f| has(path, f)) || endings.iter().any(|e| path.ends_with(e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks() {
        let hints = Hints::new(
            &[
                "python3".to_owned(),
                "/srv/app/main.py".to_owned(),
                "-v".to_owned(),
            ],
            "/srv/app",
        );
        let rows = [
            ("/usr/bin/python3", FIRST),
            ("/srv/app/main.py", FIRST),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", FIRST),
            ("/usr/lib/x86_64-linux-gnu/libssl.so.3", LIKELY),
            ("/etc/passwd", FIRST),
            ("/usr/lib/python3.11/encodings/utf_8.py", LIKELY),
            ("/usr/lib/python3.11/turtle.py", USUAL),
            ("/srv/app/util.py", LIKELY),
            ("/usr/bin/perl", USUAL),
            ("/usr/share/doc/python3/python3", COLD),
            ("/srv/app/node_modules/x/index.d.ts", COLD),
        ];
        for (path, want) in rows {
            assert_eq!(rank(path.as_bytes(), 0o755, 1000, &hints), want, "{path}");
        }
    }
}
