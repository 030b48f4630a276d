"""Trees by EROFS over loop devices with direct I/O, as Linux 5.16 to 6.11 could show them: not a way that the program has, but
what it would be worth beside FUSE."""

import shutil
import subprocess
from pathlib import Path

from lab.process import run

from . import trees
from .contenders import Ext4, Lacewing, Nydus, Root
from .rows import Result, Row, completed
from .subject import Subject


def attach(file: Path) -> str:
    """A loop device that reads a file past the page cache."""
    return subprocess.run(["losetup", "--find", "--show", "--read-only", "--direct-io=on", str(file)],
                          check=True, capture_output=True, text=True).stdout.strip()


class Loop(Root):
    """The layers of a root by the kernel's way once more, images and packs as loop devices. Packs are the same files on FUSE."""

    def __init__(self, folder: Path, base: Lacewing):
        super().__init__("loop", folder)
        self.servers, self.store = base.servers, base.store
        self.devices: dict[Path, str] = {}
        self.mounts: list[Path] = []
        known = [line.split() for line in (base.store / "catalogue").read_text().splitlines()]
        for words in known:
            if words[0] == "layer":
                self.layer(words[1], words[2], words[4].split(","))
        self.overlay(self.mounts[::-1])

    def layer(self, number: str, digest: str, packs: list[str]) -> None:
        target = self.folder / "l" / number
        target.mkdir(parents=True)
        options = ",".join(["ro", *(f"device={self.device(self.store / 'data' / pack)}" for pack in packs)])
        run("mount", "-t", "erofs", "-o", options, self.device(self.store / "indexes" / digest), target)
        self.mounts.append(target)

    def device(self, file: Path) -> str:
        if file not in self.devices:
            self.devices[file] = attach(file)
        return self.devices[file]

    def close(self) -> None:
        super().close()
        for mount in self.mounts:
            subprocess.run(["umount", str(mount)])
        for device in self.devices.values():
            subprocess.run(["losetup", "--detach", device])


class Roots(trees.Roots):
    """overlayfs, EROFS over files, EROFS over loop devices, and FUSE."""

    def contenders(self, at: Path, subject: Subject) -> list[Root]:
        image = subject.large
        self.kernel = completed(Lacewing("kernel", at / "kernel", image.converted, background=True, trees="kernel"))
        self.loop = Loop(at / "loop", self.kernel)
        self.fuse = completed(Lacewing("fuse", at / "fuse", image.converted, background=True, trees="fuse"))
        # Closed in this order: devices before what serves them.
        return [self.loop, self.kernel, self.fuse]


# Warm, all EROFS mounts are alike.
WANTED = ["walk", "small", "small-random", "large", "random", "faults"]


def rows(roots: Roots) -> list[Row]:
    return [row for row in trees.rows(roots) if row.name in WANTED]
