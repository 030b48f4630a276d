"""The rows on layers that the program shows over FUSE, beside the kernel's way, overlayfs on ext4 and nydusd's FUSE. All
bytes are local everywhere."""

import os
import random
import re
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Callable, Iterator

from lab.paths import PROJECT
from lab.process import run

from .contenders import Ext4, Lacewing, Nydus, PagedExt4, Root
from .cpu import Cost, cost, resident
from .requests import Requests, available
from .rows import READER, Result, Row, completed, largest_file, regular_files
from .subject import Subject

# Reads of a random reader, of 4 KiB each.
RANDOM_READS = 20_000


class Roots:
    """The contenders, mounted together."""

    def __init__(self, subject: Subject):
        at, self.layers = subject.folder / "trees", subject.large.layers
        shutil.rmtree(at, ignore_errors=True)
        self.ext4 = Ext4(at / "ext4", self.layers)
        self.all: list[Root] = [self.ext4, *self.contenders(at, subject)]
        files = regular_files(self.ext4.path)
        self.count = len(files)
        self.in_order, self.at_random = at / "in-order", at / "at-random"
        self.in_order.write_text("\n".join(files))
        self.at_random.write_text("\n".join(random.sample(files, len(files))))
        self.large = largest_file(self.ext4.path)
        self.large_gib = os.path.getsize(self.ext4.path / self.large) / (1 << 30)

    def contenders(self, at: Path, subject: Subject) -> list[Root]:
        """Those beside overlayfs, in the order in which they are closed."""
        image = subject.large
        first = completed(Lacewing("filler", at / "filler", image.converted, background=True, trees="kernel"))
        first.close()
        kernel = Lacewing("kernel", at / "kernel", image.converted, store=first.store, trees="kernel")
        found: list[Root] = [kernel, completed(Lacewing("fuse", at / "fuse", image.converted, background=True, trees="fuse"))]
        if image.nydus:
            found.append(nydus := Nydus(at / "nydus", subject.binaries, image.nydus))
            run("sh", "-c", "find . -type f -exec cat {} + >/dev/null", cwd=nydus.shown)  # fills its cache
        return found

    def __enter__(self) -> "Roots":
        return self

    def __exit__(self, *_) -> None:
        for root in self.all:
            root.close()
        shutil.rmtree(self.ext4.folder.parent, ignore_errors=True)

    def connections(self, root: Root) -> list:
        """Mounts of the connections through which a contender answers the kernel."""
        if isinstance(root, Lacewing):
            mounts = [root.store / "data", *sorted((root.store / "trees").glob("*"))]
            return [mount for mount in mounts if os.path.ismount(mount)]
        return [root.shown] if isinstance(root, Nydus) else []


@contextmanager
def one_processor(roots: Roots) -> Iterator[list[str]]:
    """Keeps all servers to one processor; gives the words before a command that keep it there too."""
    def keep(processors: set[int]) -> None:
        tasks = [int(task) for root in roots.all for pid in root.servers for task in os.listdir(f"/proc/{pid}/task")]
        for task in tasks:
            try:
                os.sched_setaffinity(task, processors)
            except ProcessLookupError:
                pass  # ended meanwhile
    everywhere = os.sched_getaffinity(0)
    last = max(everywhere)
    keep({last})
    try:
        yield ["taskset", "-c", str(last)]
    finally:
        keep(everywhere)


Taken = dict[str, list[Cost]]


def interleaved(contenders: list[Root], rounds: int, command: list[str], cold: bool) -> Taken:
    """What a command costs in each root, in random order, `rounds` times. Warm ones are made warm anew each time, since on a
    virtual machine much depends on which memory the page cache got; the best of three counts, since others drop caches too."""
    taken: Taken = {root.name: [] for root in contenders}
    for _ in range(rounds):
        for root in random.sample(contenders, len(contenders)):
            if not cold:
                cost(command, root.servers, cold=True, cwd=str(root.path))
            tries = [cost(command, root.servers, cold=cold, cwd=str(root.path)) for _ in range(1 if cold else 3)]
            taken[root.name].append(min(tries, key=lambda one: one.processes))
    return taken


def ratio(taken: Taken, name: str, figure: str = "cpu", base: str = "overlayfs") -> float:
    """Over overlayfs in the same round: the median."""
    pairs = zip(taken[name], taken[base])
    return median(getattr(one, figure) / max(getattr(other, figure), 1e-9) for one, other in pairs)


def both_sides(taken: Taken, scale: float = 1) -> str:
    """Medians: the sum, and what of it is the reader's and what the server's with the kernel's threads."""
    parts = []
    for name, costs in taken.items():
        total, reader = (median(getattr(one, part) for one in costs) / scale for part in ("cpu", "reader"))
        parts.append(f"{name} {total:.2f} ({reader:.2f} + {total - reader:.2f})")
    return ", ".join(parts)


def messages(roots: Roots, command: list[str]) -> str:
    """Requests of one cold run, by opcode."""
    if not available():
        return ""
    parts = []
    for root in roots.all:
        if mounts := roots.connections(root):
            with Requests(mounts) as requests:
                cost(command, root.servers, cold=True, cwd=str(root.path))
            parts.append(f"{root.name}: {requests}")
    return "; requests " + "; ".join(parts)


def ratios(roots: Roots, taken: Taken) -> str:
    return ", ".join(f"{root.name} {ratio(taken, root.name):.2f}" for root in roots.all)


def cold_row(command: Callable[[Roots], list[str]], unit: str = "CPU s", scale: Callable[[Roots], float] = lambda _: 1,
             alone: bool = False) -> Callable[[Roots, int], Result]:
    """A row of what a command costs with nothing in the page cache: CPU over overlayfs's. `alone`: once more with reader and
    servers on one processor, where no request wakes another one."""
    def measured(roots: Roots, rounds: int) -> Result:
        words = command(roots)
        taken = interleaved(roots.all, rounds, words, cold=True)
        reached = f"{ratio(taken, 'fuse'):.2f}"
        detail = (f"{unit}, both sides (reader + server): {both_sides(taken, scale(roots))}; over overlayfs: "
                  f"{ratios(roots, taken)}")
        if alone:
            with one_processor(roots) as kept:
                taken = interleaved(roots.all, rounds, [*kept, *words], cold=True)
            reached += f"; on one processor {ratio(taken, 'fuse'):.2f}"
            detail += f"; on one processor: {ratios(roots, taken)}"
        return Result(reached, detail + messages(roots, words))
    return measured


def warm(roots: Roots, rounds: int) -> Result:
    """CPU without the kernel's threads, which have nothing to do here. Beside overlayfs on the ext4 of this kernel, which caches
    large files in folios of up to 2 MiB, also on one that caches page by page (`paged`), as that of older kernels does."""
    paged = PagedExt4(roots.ext4.folder.parent / "paged", roots.layers)
    contenders = [*roots.all, paged]
    worst: dict[str, float] = {"overlayfs": 1e9, "paged": 1e9}
    details: dict[str, list[str]] = {"overlayfs": [], "paged": []}
    for what, command in {
        "walk": ["find", ".", "-ls"],
        "small files": [READER, "files", str(roots.in_order)],
        "large file": [READER, "seq", roots.large],
        "random 4 KiB": [READER, "random", roots.large, "100000", "7"],
        "faults": [READER, "faults", roots.large],
    }.items():
        taken = interleaved(contenders, rounds, command, cold=False)
        for base, found in details.items():
            speeds = {root.name: 1 / ratio(taken, root.name, "processes", base) for root in contenders}
            worst[base] = min(worst[base], speeds["fuse"])
            found.append(f"{what} " + ", ".join(f"{name} {speed:.2f}" for name, speed in speeds.items() if name != base))
    paged.close()
    return Result(f"{worst['overlayfs']:.2f} (worst); page by page {worst['paged']:.2f}",
                  f"overlayfs's CPU over theirs: {'; '.join(details['overlayfs'])}; "
                  f"that of overlayfs page by page over theirs: {'; '.join(details['paged'])}")


def memory(roots: Roots, _rounds: int) -> Result:
    sizes = {root.name: resident(root.servers[0]) for root in roots.all if root.servers}
    return Result(f"{sizes['fuse']:.0f} MiB", ", ".join(f"{name} {size:.0f}" for name, size in sizes.items()) + " MiB resident after all of the above")


def many(_roots: Roots, _rounds: int) -> Result:
    """The daemon's memory, as a test of its own bounds it: 20 images of 50,000 files under a containerd."""
    done = subprocess.run([PROJECT / "tests/e2e/run", "test_memory.ManyImages.test_walks_over_fuse"], capture_output=True, text=True)
    found = re.search(r"over FUSE: (\d+), then (\d+) MiB", done.stdout)
    if done.returncode != 0 or not found:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return Result(f"{int(found[2]) * 1.048576:.0f} MB", f"supervisor and worker: {found[1]} MiB before the walks, {found[2]} MiB after them")


def reader(*words: str | Callable[[Roots], str]) -> Callable[[Roots], list[str]]:
    return lambda roots: [READER, *(word if isinstance(word, str) else word(roots) for word in words)]


LARGE: Callable[[Roots], str] = lambda roots: roots.large  # noqa: E731

ROWS = [
    ("walk", "`find -ls`, cold: CPU over overlayfs", "1.6", cold_row(lambda _: ["find", ".", "-ls"], alone=True)),
    ("small", "small files opened and read in directory order, cold: CPU over overlayfs", "3",
     cold_row(reader("files", lambda roots: str(roots.in_order)), alone=True)),
    ("small-random", "the same in random order", "3", cold_row(reader("files", lambda roots: str(roots.at_random)))),
    ("large", "256 MiB file read in order, cold: CPU over overlayfs", "ahead of nydusd",
     cold_row(reader("seq", LARGE), "CPU s per GiB", lambda roots: roots.large_gib)),
    ("random", f"{RANDOM_READS} random reads of 4 KiB in it, cold: CPU over overlayfs", "ahead of nydusd",
     cold_row(reader("random", LARGE, str(RANDOM_READS), "7"))),
    ("faults", "a fault for each page of it, in order, cold: CPU over overlayfs", "ahead of nydusd",
     cold_row(reader("faults", LARGE), "CPU s per GiB", lambda roots: roots.large_gib)),
    ("warm", "all of these warm: overlayfs's CPU over this way's", "0.95", warm),
    ("memory", "resident memory of the server", "ahead of nydusd", memory),
    ("many", "resident memory of the daemon after walks over 20 images of 50,000 files", "40 MB", many),
]


def rows(roots: Roots) -> list[Row]:
    return [Row(name, title, target, lambda _, rounds, measure=measure: measure(roots, rounds)) for name, title, target, measure in ROWS]
