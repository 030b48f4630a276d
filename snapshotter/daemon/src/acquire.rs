//! Where the supervisor's descriptors come from, and what becomes of them at the end.
//!
//! In this order: systemd's descriptor store or socket unit; a worker whose supervisor died; else a new socket and a
//! new FUSE mount.

use std::fs::{DirBuilder, Permissions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lacewing_fusefs::TreeKind;
use rustix::mount::UnmountFlags;
use sd_notify::NotifyState;
use tracing::{info, warn};

use crate::config::{Config, Trees};
use crate::fds::{self, Descriptors, Fuse};
use crate::lock::{self, Lock};
use crate::{mountinfo, succession};

/// The listening socket's name in systemd's descriptor store; a socket unit may use any name.
const LISTENER: &str = "listener";
/// The names there of connections for trees, followed by kind and device (`trees-plain-0-54`).
const TREES: &str = "trees-";
/// The FUSE connection's name there, followed by the device's major and minor number (`fuse-0-53`).
const FUSE: &str = "fuse-";
/// A worker without supervisor notices at once, answers at once and exits at once; this is for a machine that swaps.
const SUCCESSION_PATIENCE: Duration = Duration::from_secs(10);

/// Makes the root and the socket's directory.
///
/// # Errors
/// They cannot be made.
pub(crate) fn directories(config: &Config) -> Result<()> {
    let socket_dir = config
        .address
        .parent()
        .context("the socket's path has no directory")?;
    for dir in [config.root.as_path(), socket_dir] {
        // Files in lower layers keep their own modes, so nobody but root may walk in beside the container.
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .with_context(|| format!("making directory {}", dir.display()))?;
    }
    Ok(())
}

/// Gets a listening socket and a FUSE connection. A node without FUSE is no error: layers are ordinary ones then.
///
/// # Errors
/// Somebody else answers on the socket, or a worker without supervisor does not give way.
pub(crate) fn descriptors(config: &Config) -> Result<Descriptors> {
    let (mut listener, mut fuse, mut trees) = from_service_manager();
    if let Some(inherited) = from_orphan(config)? {
        info!("took over from a worker whose supervisor had died");
        listener = listener.or(Some(inherited.listener));
        fuse = fuse.or(inherited.fuse.ok());
        trees.extend(inherited.trees);
    }
    let listener = match listener.filter(has_file) {
        Some(listener) => listener,
        None => bind(&config.address)?,
    };
    let data = lacewing_fusefs::Engine::data_dir(&config.root);
    let fuse = match fuse.filter(|fuse| is_mounted(&data, fuse)) {
        Some(fuse) => {
            info!(device = fuse.device, "the FUSE connection goes on");
            Ok(fuse)
        }
        None => new_connection(config),
    };
    trees.retain(|(kind, fuse)| is_mounted(&lacewing_fusefs::tree_dir(&config.root, *kind), fuse));
    let trees = complete_trees(config, one_of_each(trees));
    Ok(Descriptors {
        listener,
        fuse,
        trees,
    })
}

type Passed = (Option<OwnedFd>, Option<Fuse>, Vec<(TreeKind, Fuse)>);

fn from_service_manager() -> Passed {
    let (mut listener, mut fuse, mut trees) = (None, None, Vec::new());
    let Ok(passed) = sd_notify::listen_fds_with_names() else {
        return (None, None, trees);
    };
    for (number, name) in passed {
        let fd = match fds::adopt(number) {
            Ok(fd) => fd,
            Err(error) => {
                warn!(number, name, "descriptor of the service manager: {error}");
                continue;
            }
        };
        let tree = name.strip_prefix(TREES).and_then(|rest| rest.split_once('-'));
        if let Some((kind, device)) = tree {
            let note = (kind.to_owned(), device.replace('-', ":"));
            trees.extend(fds::take_trees(vec![note], std::iter::once(fd)));
            continue;
        }
        match name.strip_prefix(FUSE) {
            Some(device) => {
                fuse = Some(Fuse {
                    fd,
                    device: device.replace('-', ":"),
                })
            }
            None => listener = Some(fd),
        }
    }
    (listener, fuse, trees)
}

fn from_orphan(config: &Config) -> Result<Option<Descriptors>> {
    let path = config.root.join("worker.lock");
    if Lock::try_take(&path)?.is_some() {
        return Ok(None);
    }
    let inherited = succession::ask(&config.address, SUCCESSION_PATIENCE);
    // The worker may also simply have been dying while we asked.
    match (Lock::take(&path, SUCCESSION_PATIENCE)?, inherited) {
        (Some(_), Ok(descriptors)) => Ok(Some(descriptors)),
        (Some(_), Err(_)) => Ok(None),
        (None, Ok(_)) => bail!(
            "worker {} gave its descriptors away but lives on; end it",
            lock::holder(&path)
        ),
        (None, Err(error)) => {
            bail!(
                "worker {} has no supervisor and does not give way ({error}); end it",
                lock::holder(&path)
            )
        }
    }
}

/// The service manager and an orphan may both give the same connection.
fn one_of_each(trees: Vec<(TreeKind, Fuse)>) -> Vec<(TreeKind, Fuse)> {
    let mut once: Vec<(TreeKind, Fuse)> = Vec::with_capacity(TreeKind::ALL.len());
    for (kind, fuse) in trees {
        if once.iter().all(|(there, _)| *there != kind) {
            once.push((kind, fuse));
        }
    }
    once
}

/// Binds the socket for root alone. A socket file that nobody answers on is a dead daemon's.
fn bind(address: &Path) -> Result<OwnedFd> {
    match UnixStream::connect(address) {
        Ok(_) => bail!("another process answers on {}", address.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) if error.kind() == ErrorKind::ConnectionRefused && is_socket(address) => {
            std::fs::remove_file(address).with_context(|| format!("removing {}", address.display()))?;
        }
        Err(error) => return Err(error).with_context(|| format!("{}", address.display())),
    }
    let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(address);
    rustix::process::umask(before);
    let listener = listener.with_context(|| format!("binding {}", address.display()))?;
    std::fs::set_permissions(address, Permissions::from_mode(0o600))?;
    Ok(listener.into())
}

/// Tells whether clients can still find a socket. Its file may have been removed by whoever starts the daemon anew, as
/// is the custom before a socket is bound; a listener that was taken over would then be heard by nobody.
fn has_file(listener: &OwnedFd) -> bool {
    let address = listener
        .try_clone()
        .and_then(|fd| UnixListener::from(fd).local_addr());
    let found = address.is_ok_and(|address| address.as_pathname().is_none_or(is_socket));
    if !found {
        info!("the socket's file is gone, it is bound anew");
    }
    found
}

/// connect(2) refuses a plain file as it refuses a dead socket; only the latter may be removed.
fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

fn is_mounted(dir: &Path, fuse: &Fuse) -> bool {
    let mounted = matches!(mountinfo::mount_at(dir), Ok(Some(mount)) if mount.device == fuse.device);
    if !mounted {
        warn!(
            device = fuse.device,
            "the FUSE connection taken over is mounted no more"
        );
    }
    mounted
}

/// Mounts a new FUSE connection. What stood over an earlier one is taken away: it could only answer errors.
/// The error is the reason why there is none, for status.
pub(crate) fn new_connection(config: &Config) -> Result<Fuse, String> {
    if !config.lazy {
        return Err("switched off by the configuration".to_owned());
    }
    let connect = || -> Result<Fuse> {
        detach_dead(&config.root)?;
        let data = lacewing_fusefs::Engine::data_dir(&config.root);
        std::fs::create_dir_all(&data).with_context(|| format!("making directory {}", data.display()))?;
        let connection = lacewing_fusefs::mount_data(&data)?;
        let mount = mountinfo::mount_at(&data)?.context("the new FUSE mount is not to be seen")?;
        Ok(Fuse {
            fd: connection.fd,
            device: mount.device,
        })
    };
    connect().map_err(|error| {
        let reason = format!("no FUSE mount: {error:#}");
        warn!("{reason}; layers are pulled in the ordinary way");
        reason
    })
}

/// Adds connections for trees that are wanted and not there. Those that containers may use are kept in any case.
pub(crate) fn complete_trees(config: &Config, mut trees: Vec<(TreeKind, Fuse)>) -> Vec<(TreeKind, Fuse)> {
    if !config.lazy || config.trees == Trees::Kernel {
        return trees;
    }
    for kind in TreeKind::ALL {
        if trees.iter().any(|(there, _)| *there == kind) {
            continue;
        }
        match new_tree(config, kind) {
            Ok(fuse) => trees.push((kind, fuse)),
            Err(error) => warn!("no FUSE mount for trees: {error:#}"),
        }
    }
    trees
}

fn new_tree(config: &Config, kind: TreeKind) -> Result<Fuse> {
    let connection = lacewing_fusefs::mount_trees(&config.root, kind, &[])?;
    let mount = mountinfo::mount_at(&lacewing_fusefs::tree_dir(&config.root, kind))?;
    Ok(Fuse {
        fd: connection.fd,
        device: mount.context("the new FUSE mount is not to be seen")?.device,
    })
}

/// Detaches the dead FUSE mount and the layers over it (`l/<n>`, `l/<n>.<copy>`); direct ones (`l/<n>c`) need no FUSE and
/// stay.
fn detach_dead(root: &Path) -> Result<()> {
    let data = lacewing_fusefs::Engine::data_dir(root);
    let layers = root.join("l");
    for mount in mountinfo::mounts()?.into_iter().rev() {
        let is_layer = mount.point.parent() == Some(layers.as_path())
            && mount
                .point
                .file_name()
                .is_some_and(|name| !name.as_encoded_bytes().contains(&b'c'));
        if mount.point == data || is_layer {
            info!(mount = %mount.point.display(), "detaching what an earlier daemon left");
            rustix::mount::unmount(&mount.point, UnmountFlags::DETACH)
                .with_context(|| format!("detaching {}", mount.point.display()))?;
        }
    }
    Ok(())
}

/// Ends the FUSE connections: requests that wait get ENOTCONN now.
pub(crate) fn abort(config: &Config, descriptors: &Descriptors) {
    if let Ok(fuse) = &descriptors.fuse {
        abort_one(&lacewing_fusefs::Engine::data_dir(&config.root), &fuse.device);
    }
    for (kind, fuse) in &descriptors.trees {
        abort_one(&lacewing_fusefs::tree_dir(&config.root, *kind), &fuse.device);
    }
}

fn abort_one(dir: &Path, device: &str) {
    let minor = device.rsplit(':').next().unwrap_or_default();
    let switch = Path::new("/sys/fs/fuse/connections").join(minor).join("abort");
    if std::fs::write(&switch, "1").is_ok() {
        return;
    }
    // No fusectl mounted here. A forced unmount aborts too, also where the unmount itself is refused as busy.
    let _ = rustix::mount::unmount(dir, UnmountFlags::FORCE);
}

/// Leaves copies with systemd, which keeps them over a restart of this process if the unit allows it.
pub(crate) fn deposit(descriptors: &Descriptors) {
    let mut stored = vec![(LISTENER.to_owned(), descriptors.listener.as_fd())];
    if let Ok(fuse) = &descriptors.fuse {
        stored.push((
            format!("{FUSE}{}", fuse.device.replace(':', "-")),
            fuse.fd.as_fd(),
        ));
    }
    for (kind, fuse) in &descriptors.trees {
        let name = format!("{TREES}{}-{}", kind.name(), fuse.device.replace(':', "-"));
        stored.push((name, fuse.fd.as_fd()));
    }
    for (name, fd) in stored {
        let message = [NotifyState::FdStore, NotifyState::FdName(&name)];
        if let Err(error) = sd_notify::notify_with_fds(&message, &[fd]) {
            warn!(name, "depositing a descriptor with the service manager: {error}");
        }
    }
}

/// Tidies up what nobody needs any more. Layer mounts stay: containers may use them.
pub(crate) fn leave(config: &Config, descriptors: &Descriptors) {
    if std::env::var_os("NOTIFY_SOCKET").is_some() {
        return;
    }
    let _ = std::fs::remove_file(&config.address);
    if descriptors.fuse.is_ok() {
        // Refused as busy while any incomplete layer is mounted, and that is right.
        let data = lacewing_fusefs::Engine::data_dir(&config.root);
        let _ = rustix::mount::unmount(&data, UnmountFlags::empty());
    }
    for (kind, _) in &descriptors.trees {
        let dir = lacewing_fusefs::tree_dir(&config.root, *kind);
        if !trees_are_used(config, &dir) {
            let _ = rustix::mount::unmount(&dir, UnmountFlags::empty());
        }
    }
}

/// Whether a layer is shown from a connection. Such a bind mount would outlive it, and answer errors only.
fn trees_are_used(config: &Config, dir: &Path) -> bool {
    let (Ok(mounts), Ok(Some(own))) = (mountinfo::mounts(), mountinfo::mount_at(dir)) else {
        return true;
    };
    let layers = config.root.join("l");
    mounts
        .iter()
        .any(|mount| mount.device == own.device && mount.point.starts_with(&layers))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("sock");
        let first = bind(&address).unwrap();
        assert_eq!(
            std::fs::metadata(&address).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let error = bind(&address).unwrap_err().to_string();
        assert!(error.contains("another process answers"), "{error}");
        drop(first);
        bind(&address).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let address = dir.path().join("file");
        std::fs::write(&address, "precious").unwrap();
        assert!(bind(&address).is_err());
        assert_eq!(std::fs::read(&address).unwrap(), b"precious");
    }
}
