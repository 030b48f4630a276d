"""A lab in a folder of its own: everything started in it ends, and everything mounted in it is unmounted, whatever happens."""

import itertools
import os
import shutil
from pathlib import Path

from .nodes import Containerd, Daemon, daemon_config
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

    def _folder(self, kind: str) -> Path:
        return self.folder / f"{kind}{len(self.parts)}"

    def _added(self, part):
        self.parts.append(part)
        part.start()
        return part

    def registry(self) -> Registry:
        return self._added(Registry(self._folder("r")))

    def containerd(self, generation: int, registry: Registry) -> Containerd:
        """A containerd that knows only its own snapshotters."""
        return self._added(Containerd(self._folder("c"), generation, registry, None))

    def daemon(self, read_timeout_s: int = 60, background: bool = True) -> Daemon:
        """A daemon that no containerd uses."""
        return self._added(Daemon(self._folder("d"), daemon_config(None, read_timeout_s, background)))

    def node(self, generation: int, registry: Registry, read_timeout_s: int = 60, background: bool = True) -> tuple[Daemon, Containerd]:
        """A daemon and the containerd that uses it; each knows the other's socket."""
        folder = self._folder("c")
        daemon = Daemon(self._folder("d"), daemon_config(folder / "sock", read_timeout_s, background))
        containerd = Containerd(folder, generation, registry, daemon)
        return self._added(daemon), self._added(containerd)

    def directory(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
