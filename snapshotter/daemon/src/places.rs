//! Where things are kept, by default: the system's folders for root, the user's own (XDG base directories) for others.

use std::path::PathBuf;

/// Where the daemon keeps everything, unless told otherwise.
pub(crate) const DEFAULT_ROOT: &str = "/var/lib/lacewing";
/// The socket containerd's proxy plugin connects to, unless told otherwise.
pub(crate) const DEFAULT_ADDRESS: &str = "/run/lacewing/lacewing.sock";
/// Read if it exists and `--config` is not given.
pub(crate) const DEFAULT_FILE: &str = "/etc/lacewing/config.toml";

/// The environment's words, as far as they matter here.
struct Home<'a> {
    variable: &'a dyn Fn(&str) -> Option<PathBuf>,
}

impl Home<'_> {
    /// An XDG folder, or its place below the home directory. Relative paths are to be ignored (XDG base directories).
    fn folder(&self, name: &str, below: &str) -> Option<PathBuf> {
        let absolute = |path: &PathBuf| path.is_absolute();
        let said = (self.variable)(name).filter(absolute);
        said.or_else(|| Some((self.variable)("HOME").filter(absolute)?.join(below)))
    }
}

fn environment(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from)
}

/// Whether this is not the system's root: an ordinary user, or root of a user namespace.
pub(crate) fn rootless() -> bool {
    lacewing_fusefs::in_user_namespace() || !rustix::process::geteuid().is_root()
}

fn place(system: &str, xdg: &str, below: &str, name: &str) -> PathBuf {
    let home = Home {
        variable: &environment,
    };
    match rootless().then(|| home.folder(xdg, below)).flatten() {
        Some(folder) => folder.join(name),
        None => PathBuf::from(system),
    }
}

/// What a daemon keeps.
pub(crate) fn root() -> PathBuf {
    place(DEFAULT_ROOT, "XDG_DATA_HOME", ".local/share", "lacewing")
}

/// A daemon's socket.
pub(crate) fn address() -> PathBuf {
    place(
        DEFAULT_ADDRESS,
        "XDG_RUNTIME_DIR",
        ".local/share",
        "lacewing/lacewing.sock",
    )
}

/// A daemon's configuration.
pub(crate) fn config_file() -> PathBuf {
    place(DEFAULT_FILE, "XDG_CONFIG_HOME", ".config", "lacewing/config.toml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_those_of_the_user() {
        let folder = |xdg: Option<&'static str>, home: Option<&'static str>| {
            let variable = |name: &str| match name {
                "HOME" => home.map(PathBuf::from),
                _ => xdg.map(PathBuf::from),
            };
            let home = Home { variable: &variable };
            home.folder("XDG_DATA_HOME", ".local/share")
        };
        assert_eq!(folder(Some("/x"), Some("/h")), Some("/x".into()));
        assert_eq!(folder(None, Some("/h")), Some("/h/.local/share".into()));
        assert_eq!(folder(Some("x"), Some("/h")), Some("/h/.local/share".into()));
        assert_eq!(folder(None, None), None);
    }
}
