//! The process that serves is killed again and again while readers verify.

#![allow(unsafe_code)]
// JUSTIFICATION: a child process takes over a descriptor by its number, which no safe call offers.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use lacewing_fusefs::{Connection, Engine, Options, mount_data};

use crate::image::mixed;
use crate::node::{verify, wait_for};
use crate::source::Files;

const ROOT: &str = "LACEWING_TEST_ROOT";
const FD: &str = "LACEWING_TEST_FD";

/// Kills in a row.
const KILLS: usize = 40;

/// Not a test by itself: the process that is killed. Serves a connection that it inherits.
#[test]
#[ignore = "started by the test below"]
fn serving_child() {
    let (Ok(root), Ok(fd)) = (std::env::var(ROOT), std::env::var(FD)) else {
        return;
    };
    // SAFETY: the parent left this descriptor open for us, and nothing else here uses it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd.parse().unwrap()) };
    let root = std::path::PathBuf::from(root);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let source = Arc::new(Files {
        dir: root.join("blobs"),
        delay: Duration::from_millis(5),
    });
    let mut options = Options::new(root.join("node"), source, runtime.handle().clone());
    options.background = false;
    let engine = Engine::open(options).unwrap();
    let serving = engine.serve(Connection::from_fd(fd)).unwrap();
    for status in engine.status() {
        engine.show_as(status.id, 0, false).unwrap();
    }
    serving.wait();
}

/// A server that ends with the test, however that ends.
struct Server(Child);

impl Server {
    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(root: &std::path::Path, fd: &OwnedFd) -> Server {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "takeover::serving_child", "--ignored", "--nocapture"])
        .env(ROOT, root)
        .env(FD, fd.as_raw_fd().to_string())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    Server(child)
}

#[test]
fn readers_do_not_notice_that_the_server_is_killed() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: not root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let node = root.path().join("node");
    let layer = Arc::new(mixed(42, 400, 2));
    let blobs = root.path().join("blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    std::fs::write(blobs.join(layer.blob_digest.hex()), &layer.blob).unwrap();
    let connection = mount_data(&Engine::data_dir(&node)).unwrap();
    let held = connection.try_clone().unwrap();
    let path = {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let source = Arc::new(Files {
            dir: blobs,
            delay: Duration::ZERO,
        });
        let engine = Engine::open(Options::new(&node, source, runtime.handle().clone())).unwrap();
        if let Some(Err(reason)) = &engine.features().erofs_file {
            eprintln!("skipped: {reason}");
            return;
        }
        let serving = engine.serve(connection).unwrap();
        let id = engine.add_layer(&layer.index, layer.digest).unwrap();
        let path = engine.show_as(id, 0, false).unwrap();
        serving.stop();
        path
    };
    rustix::io::fcntl_setfd(&held.fd, rustix::io::FdFlags::empty()).unwrap();
    let over = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicUsize::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (layer, path, over, rounds) = (layer.clone(), path.clone(), over.clone(), rounds.clone());
            std::thread::spawn(move || {
                while !over.load(Ordering::Acquire) {
                    verify(&path, &layer);
                    rounds.fetch_add(1, Ordering::AcqRel);
                    // Asks the server again for what the kernel would keep.
                    let _ = std::fs::write("/proc/sys/vm/drop_caches", "1");
                }
            })
        })
        .collect();
    for kill in 0..KILLS {
        let mut child = start(root.path(), &held.fd);
        std::thread::sleep(Duration::from_millis(20 + (kill as u64 * 37) % 150));
        child.kill();
    }
    let last = start(root.path(), &held.fd);
    let so_far = rounds.load(Ordering::Acquire);
    wait_for("readers to go on", || rounds.load(Ordering::Acquire) > so_far + 3);
    over.store(true, Ordering::Release);
    for reader in readers {
        reader.join().unwrap();
    }
    let flags = rustix::mount::UnmountFlags::DETACH;
    rustix::mount::unmount(&path, flags).unwrap();
    rustix::mount::unmount(Engine::data_dir(&node), flags).unwrap();
    drop(held);
    drop(last);
}
