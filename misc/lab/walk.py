"""Everything that can be seen of a tree, path by path, and the differences between two trees."""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

KINDS = {stat.S_IFDIR: "directory", stat.S_IFREG: "file", stat.S_IFLNK: "symlink", stat.S_IFCHR: "char device",
         stat.S_IFBLK: "block device", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}


@dataclass(frozen=True)
class Entry:
    """What `stat`, `getxattr` and `read` say of one path."""

    kind: str
    mode: str
    owner: str
    size: int  # 0 but for files and symlinks
    mtime: int  # nanoseconds
    links: int
    device: str
    xattrs: tuple[tuple[str, str], ...]
    content: str  # digest of a file, target of a symlink
    group: bytes  # the first path of the same inode


Tree = dict[bytes, Entry]

# overlayfs lists a whiteout inside an opaque directory, and yet there is nothing.
GHOST = Entry("listed, not there", "", "", 0, 0, 0, "", (), "", b"")

# Nothing about a whiteout counts but that it is one.
WHITEOUT = Entry("whiteout", "", "", 0, 0, 0, "", (), "", b"")


def digest(path: bytes) -> str:
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def xattrs(path: bytes, layer: bool) -> tuple[tuple[str, str], ...]:
    """All xattrs. overlay's own marks are how layers are joined, not what the joined tree holds; opaque is part of a layer."""
    names = sorted(os.listxattr(path, follow_symlinks=False))
    seen = [name for name in names if not name.startswith(("trusted.overlay.", "user.overlay."))]
    if layer:
        seen += [name for name in names if name == "trusted.overlay.opaque"]
    return tuple((name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in seen)


def walk(root: Path, skip: frozenset[bytes] = frozenset(), layer: bool = False) -> Tree:
    """All entries below a directory, itself included; `skip` names paths (from "/") that are left out with all below.

    `layer`: the directory is a single layer as overlay wants it, with whiteouts and opaque marks.
    """
    top = os.fsencode(root)
    tree: Tree = {}
    first_paths: dict[tuple[int, int], bytes] = {}
    pending = [b"/"]
    while pending:
        path = pending.pop()
        if path in skip:
            continue
        real = top + path
        try:
            info = os.lstat(real)
        except FileNotFoundError:
            tree[path] = GHOST
            continue
        kind = KINDS[stat.S_IFMT(info.st_mode)]
        if layer and kind == "char device" and info.st_rdev == 0:
            tree[path] = WHITEOUT
            continue
        content, size, group = "", 0, b""
        if kind == "file":
            size, content = info.st_size, digest(real)
        elif kind == "symlink":
            size, content = info.st_size, os.fsdecode(os.readlink(real))
        if kind == "directory":
            base = path if path == b"/" else path + b"/"
            pending += sorted((base + name for name in os.listdir(real)), reverse=True)
        elif info.st_nlink > 1:
            group = first_paths.setdefault((info.st_dev, info.st_ino), path)
        device = f"{os.major(info.st_rdev)}:{os.minor(info.st_rdev)}" if "device" in kind else ""
        tree[path] = Entry(kind, f"{stat.S_IMODE(info.st_mode):04o}", f"{info.st_uid}:{info.st_gid}", size, info.st_mtime_ns,
                           info.st_nlink, device, xattrs(real, layer), content, group)
    return tree


def differences(expected: Tree, found: Tree, since: float) -> list[str]:
    """What differs, a line each.

    A directory that no tar has an entry for gets the time of unpacking: a time after `since` (seconds) in `expected` is
    not compared.
    """
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        one, other = expected.get(path), found.get(path)
        if one is None or other is None:
            lines.append(f"{path!r}: only in {'the second' if one is None else 'the first'}")
            continue
        for name in Entry.__dataclass_fields__:
            a, b = getattr(one, name), getattr(other, name)
            if a == b:
                continue
            if name == "mtime" and one.kind == "directory":
                if a >= since * 1e9:
                    continue
            lines.append(f"{path!r}: {name} {a!r} != {b!r}")
    return lines


def mount_points(pid: int) -> frozenset[bytes]:
    """What is mounted inside a process's root, the root itself left out."""
    points = set()
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().splitlines():
        point = line.split()[4].decode("unicode_escape").encode("latin-1")
        if point != b"/":
            points.add(point)
    return frozenset(points)
