"""Layers from distribution packages: each is the upper directory of an overlay in which a script ran."""

import functools
import hashlib
import os
import shutil
import stat
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from .oci import GZIP, Layer, Layout
from .paths import CACHE
from .process import run
from .rawtar import BLOCK_DEVICE, CHAR, DIRECTORY, EPOCH, FIFO, LINK, SYMLINK, TarWriter

FOLDER = CACHE / "rootfs"
SUITE = "bookworm"

# What no image carries: documentation, and what would differ from build to build.
NO_DOCS = ["path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright", "path-exclude=/usr/share/man/*",
           "path-exclude=/usr/share/info/*", "path-exclude=/usr/share/locale/*", "force-unsafe-io"]
CLEAN = """
rm -rf /var/lib/dpkg/*-old /var/log/*.log /var/log/apt/* /var/cache/ldconfig/aux-cache /var/cache/apt/*.bin /root/.cache \
  /var/cache/debconf/*-old /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow-
"""

# Runs in a mount namespace of its own: $LOWER, $DIR, $HOST as set by `built`.
IN_OVERLAY = """
set -euo pipefail
root=$DIR/merged
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$DIR/upper,workdir=$DIR/work,redirect_dir=off,metacopy=off,index=off" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
for private in tmp run var/cache/apt; do mount -t tmpfs tmpfs "$root/$private"; done
mkdir -p "$root/var/cache/apt/archives/partial" "$root/run/host"
mount --bind "$LISTS" "$root/var/lib/apt/lists"
mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
mount --bind "$HOST" "$root/run/host"
exec chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 \
  SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" bash -euc "$SCRIPT"
"""


@dataclass(frozen=True)
class Rootfs:
    """A layer as a directory, and all layers it was made on (bottom first)."""

    key: str
    upper: Path
    below: tuple[Path, ...] = ()

    @property
    def stack(self) -> tuple[Path, ...]:
        return (*self.below, self.upper)


def install(*packages: str) -> str:
    """The script line that installs packages."""
    options = "-o APT::Sandbox::User=root -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache="
    return f"apt-get {options} install -y -q --no-install-recommends {' '.join(packages)}\n"


def _folder(key: str) -> Path:
    return FOLDER / hashlib.sha256(key.encode()).hexdigest()[:16]


_base_lock = threading.Lock()


def base() -> Rootfs:
    """Debian's minimal base, with package lists beside it for the layers above."""
    with _base_lock:
        return _base()


@functools.cache
def _base() -> Rootfs:
    folder = _folder(f"base {SUITE} 1")
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "upper").mkdir(parents=True)
        site = run("bash", "-c", "apt-get indextargets --format '$(SITE)' | head -n1").strip()
        options = [f"--dpkgopt={option}" for option in NO_DOCS]
        run("mmdebstrap", "-q", "--variant=minbase", "--mode=root", "--format=directory", "--skip=cleanup/apt/lists",
            *options, SUITE, folder / "upper", site, env={"SOURCE_DATE_EPOCH": str(EPOCH)})
        script = """
            mv var/lib/apt/lists "$LISTS"
            rm -rf dev/* proc/* sys/* run/* tmp/* var/cache/apt/* var/log/*.log var/log/apt/* var/lib/dpkg/*-old
            rm -rf var/cache/ldconfig/aux-cache etc/hostname etc/machine-id etc/resolv.conf
            touch etc/resolv.conf etc/machine-id
            mkdir -p var/lib/apt/lists/partial var/cache/apt/archives/partial
            printf '#!/bin/sh\\nexit 101\\n' >usr/sbin/policy-rc.d
            chmod 755 usr/sbin/policy-rc.d
        """
        run("bash", "-euc", script, cwd=folder / "upper", env={"LISTS": str(folder / "lists")})
        (folder / "done").touch()
    return Rootfs(str(folder), folder / "upper")


def built(name: str, below: Rootfs, script: str, host: Path | None = None) -> Rootfs:
    """The layer that a script makes over others; `host` is seen by it as /run/host. Kept for the next time."""
    key = f"{name}\n{below.key}\n{script}"
    folder = _folder(key)
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for part in ("upper", "work", "merged", "empty"):
            (folder / part).mkdir(parents=True)
        env = {
            "LOWER": ":".join(str(path) for path in reversed(below.stack)), "DIR": str(folder), "SCRIPT": script + CLEAN,
            "LISTS": str(below.stack[0].parent / "lists"), "HOST": str(host or folder / "empty"),
            "SOURCE_DATE_EPOCH": str(EPOCH),
        }
        run("unshare", "-m", "--propagation", "private", "bash", "-c", IN_OVERLAY, env=env)
        (folder / "done").touch()
    return Rootfs(key, folder / "upper", below.stack)


def _xattrs(path: bytes) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {n: os.getxattr(path, n, follow_symlinks=False) for n in names if not n.startswith("trusted.overlay.")}


def _opaque(path: bytes) -> bool:
    try:
        return os.getxattr(path, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def write_tree(root: Path, tar: TarWriter, latest: int = EPOCH) -> None:
    """Writes an upper directory as a layer: sorted, no time later than `latest`, whiteouts as OCI has them."""
    top = os.fsencode(root)
    first_names: dict[tuple[int, int], bytes] = {}

    def visit(relative: bytes) -> None:
        path = os.path.join(top, relative)
        info = os.lstat(path)
        kind = stat.S_IFMT(info.st_mode)
        fields = {"mode": stat.S_IMODE(info.st_mode), "uid": info.st_uid, "gid": info.st_gid,
                  "mtime": min(int(info.st_mtime), latest), "xattrs": _xattrs(path)}
        if kind == stat.S_IFCHR and info.st_rdev == 0:
            parent, name = os.path.split(relative)
            tar.add(os.path.join(parent, b".wh." + name), mode=0, mtime=latest)
        elif kind == stat.S_IFDIR:
            if relative:
                tar.add(relative + b"/", DIRECTORY, **fields)
            if _opaque(path):
                tar.add(os.path.join(relative, b".wh..wh..opq"), mode=0, mtime=latest)
            for name in sorted(os.listdir(path)):
                visit(os.path.join(relative, name))
        elif kind == stat.S_IFLNK:
            tar.add(relative, SYMLINK, link=os.readlink(path), **fields)
        elif kind == stat.S_IFREG:
            inode = (info.st_dev, info.st_ino)
            if info.st_nlink > 1 and inode in first_names:
                tar.add(relative, LINK, link=first_names[inode], **fields)
                return
            first_names[inode] = relative
            with open(path, "rb") as file:
                tar.add(relative, file=file, size=info.st_size, **fields)
        elif kind == stat.S_IFIFO:
            tar.add(relative, FIFO, **fields)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            device = (os.major(info.st_rdev), os.minor(info.st_rdev))
            tar.add(relative, CHAR if kind == stat.S_IFCHR else BLOCK_DEVICE, device=device, **fields)

    visit(b"")


def layer(layout: Layout, rootfs: Rootfs, compression: str = GZIP) -> Layer:
    return layout.layer(lambda tar: write_tree(rootfs.upper, tar), compression)
