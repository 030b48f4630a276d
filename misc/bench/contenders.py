"""The same image as a container's root, three ways: overlayfs on ext4, Lacewing, Nydus. Each is an overlay with an upper
directory on ext4, as a container has it; only the lower directories differ."""

import json
import os
import signal
import shutil
import subprocess
import time
from pathlib import Path

from lab.paths import lacewing
from lab.process import Process, run, wait_until


class Root:
    """A mounted container's root and the processes that serve it."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.path = folder / "root"
        self.servers: list[int] = []
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)

    def overlay(self, lowers: list[Path]) -> None:
        """Mounts the root; `lowers` with the topmost first, as mount wants them."""
        upper, work = self.folder / "upper", self.folder / "work"
        for path in (upper, work, self.path):
            path.mkdir(exist_ok=True)
        joined = ":".join(map(str, lowers))
        run("mount", "-t", "overlay", "-o", f"index=off,lowerdir={joined},upperdir={upper},workdir={work}",
            f"bench-{self.name}", self.path)

    def close(self) -> None:
        subprocess.run(["umount", "-l", str(self.path)], stderr=subprocess.DEVNULL)


class Ext4(Root):
    """Layers unpacked on the disk, as containerd's overlayfs snapshotter leaves them."""

    def __init__(self, folder: Path, layers: list[Path], name: str = "overlayfs"):
        super().__init__(name, folder)
        disk = self.disk()
        directories = []
        for number, layer in enumerate(layers, 1):
            target = disk / str(number)
            target.mkdir()
            run("tar", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf", layer, "-C", target)
            directories.append(convert_whiteouts(target))
        self.overlay(directories[::-1])

    def disk(self) -> Path:
        """Where layers are unpacked."""
        return self.folder


class PagedExt4(Ext4):
    """The same on an ext4 that keeps files in the page cache page by page, as each did before Linux 6.16: one whose data go
    through its journal does so still (ext4_should_enable_large_folio). Reading is the same otherwise."""

    SIZE = "3G"  # sparse

    def __init__(self, folder: Path, layers: list[Path]):
        super().__init__(folder, layers, "paged")

    def disk(self) -> Path:
        image, disk = self.folder / "image", self.folder / "disk"
        disk.mkdir()
        run("truncate", "-s", self.SIZE, image)
        run("mkfs.ext4", "-q", image)
        run("mount", "-o", "loop,data=journal", image, disk)
        return disk

    def close(self) -> None:
        super().close()
        subprocess.run(["umount", "-l", str(self.folder / "disk")])
        shutil.rmtree(self.folder)


def convert_whiteouts(tree: Path) -> Path:
    """Turns `.wh.` files into overlayfs's own whiteouts."""
    for path in tree.rglob(".wh.*"):
        if path.name == ".wh..wh..opq":
            os.setxattr(path.parent, "trusted.overlay.opaque", b"y")
        else:
            os.mknod(path.parent / path.name[4:], 0o020000, os.makedev(0, 0))
        path.unlink()
    return tree


class Lacewing(Root):
    """A converted image shown by `lacewing mount`, its layers united by an overlay of our own so that there is an upper
    directory. `store` may be one that holds bytes already; `trees` says who shows layers."""

    def __init__(self, name: str, folder: Path, reference: str, store: Path | None = None, background: bool = False,
                 trees: str = "auto"):
        super().__init__(name, folder)
        self.store = store or folder / "store"
        self.shown = folder / "shown"
        self.shown.mkdir()
        command = [lacewing(), "mount", reference, self.shown, "--store", self.store, "--trees", trees]
        if not background:
            command.append("--no-background")
        self.process = Process(name, command, folder / "log")
        start = time.monotonic()
        self.process.start()
        wait_until(lambda: os.path.ismount(self.shown) or not self.process.alive(), "lacewing mount", 60, 0.002)
        self.mount_seconds = time.monotonic() - start
        if not self.process.alive():
            raise RuntimeError(self.process.tail())
        self.servers = [self.process.pid]
        self.overlay(self.lowers())

    def lowers(self) -> list[Path]:
        """The layers' mounts, topmost first, as the overlay that `lacewing mount` made has them."""
        with open("/proc/self/mountinfo") as table:
            for line in table:
                fields, _, options = line.partition(" - ")
                if fields.split()[4] == str(self.shown):
                    named = [o.partition("=") for o in options.split(" ", 2)[2].split(",")]
                    found = [path for key, _, value in named if key in ("lowerdir", "lowerdir+") for path in value.split(":")]
                    return [Path(path) for path in found if Path(path).parent.name == "l"]
        return [self.shown]  # one layer: no overlay

    def close(self) -> None:
        super().close()
        subprocess.run(["umount", str(self.shown)], stderr=subprocess.DEVNULL)
        try:
            self.process.child.wait(15)
        except subprocess.TimeoutExpired:
            self.process.stop()


class Nydus(Root):
    """RAFS v6 of the united tree (nydus-image, zstd), served by nydusd's FUSE. The blob comes from a local file, or from
    the repository `registry` ("HOST/NAME")."""

    def __init__(self, folder: Path, binaries: Path, image: Path, registry: str | None = None):
        super().__init__("nydus", folder)
        self.shown, self.cache = folder / "shown", folder / "cache"
        for path in (self.shown, self.cache):
            path.mkdir(exist_ok=True)
        backend = {"type": "localfs", "config": {"dir": str(image / "blobs")}}
        if registry:
            host, _, repository = registry.partition("/")
            backend = {"type": "registry", "config": {"scheme": "http", "host": host, "repo": repository}}
        config = folder / "config.json"
        config.write_text(json.dumps({
            "device": {"backend": backend, "cache": {"type": "blobcache", "config": {"work_dir": str(self.cache)}}},
            "mode": "direct", "digest_validate": False, "iostats_files": False, "enable_xattr": True,
        }))
        command = [binaries / "nydusd", "fuse", "--rlimit-nofile", "0", "--config", config, "--mountpoint", self.shown,
                   "--bootstrap", image / "bootstrap", "--log-level", "warn"]
        self.process = Process("nydusd", command, folder / "log")
        start = time.monotonic()
        self.process.start()
        wait_until(lambda: os.path.ismount(self.shown) and any(self.shown.iterdir()) or not self.process.alive(),
                   "nydusd", 60, 0.002)
        self.mount_seconds = time.monotonic() - start
        if not self.process.alive():
            raise RuntimeError(self.process.tail())
        self.servers = [self.process.pid]
        self.overlay([self.shown])

    def close(self) -> None:
        super().close()
        if self.process.alive():
            os.kill(self.process.pid, signal.SIGTERM)
            self.process.stop()
        subprocess.run(["umount", "-l", str(self.shown)], stderr=subprocess.DEVNULL)


def build_nydus(binaries: Path, tree: Path, target: Path, *options: str):
    """Builds a RAFS image from a directory; the cost of doing so is the caller's to measure."""
    shutil.rmtree(target, ignore_errors=True)
    (target / "blobs").mkdir(parents=True)
    return [str(binaries / "nydus-image"), "create", "--type", "dir-rafs", "--compressor", "zstd", "--whiteout-spec", "none",
            "--bootstrap", str(target / "bootstrap"), "--blob-dir", str(target / "blobs"), "--log-level", "warn",
            *options, str(tree)]
