"""A lab in a folder of its own: everything started in it ends, and everything mounted in it is unmounted, whatever happens."""

import contextlib
import itertools
import os
from pathlib import Path

from .nodes import Containerd, Daemon, daemon_config
from .paths import RUNS
from .process import kill_using, run, unmount_below, unmount_copies
from .registry import Registry
from .rootless import UserNamespace, confine

_numbers = itertools.count(1)

# Room for everything at once; the file is sparse.
DISK_BYTES = 64 << 30


def make_disk(folder: Path) -> None:
    """Mounts a new ext4 there, as of a new machine. Also, deleting it is one unlink, not a million. What is deleted in it
    is given back at once, or a run would need room for all it ever wrote."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(DISK_BYTES)
    run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", image)
    folder.mkdir()
    device = run("losetup", "--find", "--show", image).strip()
    # Otherwise all that is read and written passes through the page cache twice, at the processors' cost.
    run("losetup", "--direct-io=on", device, check=False)
    run("mount", "-o", "noatime,discard,noinit_itable", device, folder)
    run("losetup", "--detach", device)  # as soon as it is not mounted any more


def remove_disk(folder: Path) -> None:
    """Ends what uses a folder made by `make_disk`, and removes it with all in it."""
    kill_using(folder)
    unmount_below(folder)
    unmount_copies(folder)
    run("umount", "-l", folder, check=False)
    run("rm", "-rf", "--one-file-system", folder)
    folder.with_suffix(".img").unlink(missing_ok=True)


def remove_abandoned() -> None:
    """Removes what runs left behind that were themselves killed."""
    for folder in RUNS.iterdir():
        pid = folder.name.split("-")[-2]
        if folder.is_dir() and not Path(f"/proc/{pid}").exists():
            remove_disk(folder)


class Lab:
    """Use as a context manager. $LACEWING_LAB_KEEP=1 leaves the folder and its logs behind."""

    def __init__(self, name: str = "lab"):
        # Short: a socket's path has at most 107 bytes, and overlay's options one page.
        self.folder = RUNS / f"{name}-{os.getpid()}-{next(_numbers)}"
        self.parts: list = []
        # What `clear` leaves alone.
        self.kept: list = []
        self.kept_folders: set[Path] = set()
        self.numbers = itertools.count(1)

    def __enter__(self) -> "Lab":
        RUNS.mkdir(parents=True, exist_ok=True)
        remove_abandoned()
        make_disk(self.folder)
        return self

    def __exit__(self, *_) -> None:
        self._end(self.parts)
        if not os.environ.get("LACEWING_LAB_KEEP"):
            remove_disk(self.folder)

    @staticmethod
    def _end(parts: list) -> None:
        for part in reversed(parts):
            if isinstance(part, Containerd) and part.process.alive():
                part.remove_everything()
        for part in reversed(parts):
            part.process.stop()

    @contextlib.contextmanager
    def keeping(self):
        """What is made meanwhile stays until the lab ends, whatever is cleared."""
        parts, folders = list(self.parts), set(self.folder.iterdir())
        yield
        self.kept += [part for part in self.parts if part not in parts]
        self.kept_folders |= set(self.folder.iterdir()) - folders

    def clear(self) -> None:
        """Ends and removes all but what is kept: each containerd takes memory, disk, and two of the inotify instances that a
        system has, often 128, without which the next one comes up without CRI."""
        self._end([part for part in self.parts if part not in self.kept])
        self.parts = list(self.kept)
        if os.environ.get("LACEWING_LAB_KEEP"):
            return
        for entry in set(self.folder.iterdir()) - self.kept_folders:
            if entry.name != "lost+found":
                kill_using(entry)
                unmount_below(entry)
                run("umount", "-l", entry, check=False)
                run("rm", "-rf", "--one-file-system", entry)

    def _folder(self, kind: str) -> Path:
        return self.folder / f"{kind}{next(self.numbers)}"

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

    def node(self, generation: int, registry: Registry, read_timeout_s: int = 60, background: bool = True, extra: str = "",
             place: Path | None = None, way: str | None = None) -> tuple[Daemon, Containerd]:
        """A daemon and the containerd that uses it; each knows the other's socket. `extra` are further lines of the daemon's
        configuration, `place` is where it keeps everything, `way` who shows layers."""
        folder = self._folder("c")
        config = daemon_config(folder / "sock", read_timeout_s, background, way) + extra
        daemon = Daemon(place or self._folder("d"), config)
        containerd = Containerd(folder, generation, registry, daemon)
        return self._added(daemon), self._added(containerd)

    def rootless_node(self, registry: Registry) -> tuple[Daemon, Containerd, UserNamespace]:
        """A daemon and the containerd that uses it, of an ordinary user. Nothing is fetched before it is read."""
        folder, namespace = self._folder("c"), self._added(UserNamespace(self._folder("n")))
        place = self._folder("d")
        daemon = Daemon(place, daemon_config(folder / "sock", 60, False))
        containerd = Containerd(folder, 2, registry, daemon)
        confine(daemon, place, namespace)
        confine(containerd, folder, namespace)
        return self._added(daemon), self._added(containerd), namespace

    def directory(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path
