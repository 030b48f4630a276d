"""A lab in a folder of its own: everything started in it ends, and everything mounted in it is unmounted, whatever happens."""

import itertools
import os
import shutil
from pathlib import Path

from .nodes import Containerd, Daemon
from .paths import RUNS
from .process import kill_using, unmount_below
from .registry import Registry

_numbers = itertools.count(1)


class Lab:
    """Use as a context manager. $LACEWING_LAB_KEEP=1 leaves folder and logs behind."""

    def __init__(self, name: str = "lab"):
        # Short: a socket's path has at most 107 bytes, and overlay's options one page.
        self.folder = RUNS / f"{name}-{os.getpid()}-{next(_numbers)}"
        self.parts: list = []

    def __enter__(self) -> "Lab":
        self.folder.mkdir(parents=True)
        return self

    def __exit__(self, *_) -> None:
        for part in reversed(self.parts):
            if isinstance(part, Containerd) and part.process.alive():
                part.remove_everything()
        for part in reversed(self.parts):
            part.process.stop()
        kill_using(self.folder)
        unmount_below(self.folder)
        if not os.environ.get("LACEWING_LAB_KEEP"):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _added(self, part):
        self.parts.append(part)
        part.start()
        return part

    def registry(self) -> Registry:
        return self._added(Registry(self.folder / f"r{len(self.parts)}"))

    def daemon(self, config: str = "") -> Daemon:
        return self._added(Daemon(self.folder / f"d{len(self.parts)}", config))

    def containerd(self, generation: int, registry: Registry, daemon: Daemon | None) -> Containerd:
        return self._added(Containerd(self.folder / f"c{len(self.parts)}", generation, registry, daemon))

    def directory(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
