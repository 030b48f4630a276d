"""The table's rows: what is measured, and against which target."""

import json
import os
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Callable

from lab.paths import PROJECT, lacewing
from lab.process import run, wait_until

from .contenders import Ext4, Lacewing, Nydus, Root, build_nydus
from .cpu import cost, drop_caches, page_cache, resident
from .far import Far
from .subject import DATABASE, Subject

READER = str(Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "release/bench-reader")


@dataclass
class Result:
    """What a row gives: the figure that stands beside the target, and what it was made from."""

    reached: str
    detail: str


@dataclass
class Row:
    name: str
    title: str
    target: str
    measure: Callable[[Subject, int], Result]


# --- roots ---------------------------------------------------------------------------------------------------------------


class Roots:
    """The contenders that are compared warm or with all chunks local, mounted together."""

    def __init__(self, subject: Subject):
        at, image = subject.folder / "roots", subject.large
        self.ext4 = Ext4(at / "ext4", image.layers)
        self.incomplete = completed(Lacewing("incomplete", at / "incomplete", image.converted, background=True))
        first = completed(Lacewing("filler", at / "filler", image.converted, background=True))
        store = first.store
        first.close()
        self.complete = Lacewing("complete", at / "complete", image.converted, store=store)
        self.all: list[Root] = [self.ext4, self.incomplete, self.complete]
        if image.nydus:
            self.nydus = Nydus(at / "nydus", subject.binaries, image.nydus)
            run("sh", "-c", "find . -type f -exec cat {} + >/dev/null", cwd=self.nydus.shown)  # fills its cache
            self.all.append(self.nydus)

    def __enter__(self) -> "Roots":
        return self

    def __exit__(self, *_) -> None:
        for root in self.all:
            root.close()


def completed(root: Lacewing) -> Lacewing:
    """Waits until every byte is local."""
    packs = root.store / "packs"

    def size() -> int:
        return sum(path.stat().st_blocks for path in packs.iterdir() if path.name.isdigit())

    seen = [-1, 0]

    def settled() -> bool:
        seen[1] = seen[1] + 1 if size() == seen[0] else 0
        seen[0] = size()
        return seen[1] >= 10

    wait_until(settled, "background completion", 300, 0.2)
    return root


def regular_files(root: Path) -> list[str]:
    """Small regular files below a root, in directory order."""
    found = []
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path) < 128 << 10:
                found.append(os.path.relpath(path, root))
    return found


def largest_file(root: Path) -> str:
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)
    return os.path.relpath(max((p for p in paths if not os.path.islink(p)), key=os.path.getsize), root)


def compare(roots: list[Root], base: Root, rounds: int, command: Callable[[Root], list[str]], cold: bool,
            figure: str = "cpu") -> tuple[dict[str, float], dict[str, float]]:
    """Runs a command in each root, in random order, `rounds` times. Median ratios over the base, and median values."""
    ratios: dict[str, list[float]] = {root.name: [] for root in roots}
    values: dict[str, list[float]] = {root.name: [] for root in roots}
    for _ in range(rounds):
        taken = {}
        for root in random.sample(roots, len(roots)):
            if not cold:
                cost(command(root), root.servers, cwd=root.path)  # warm it
            taken[root.name] = getattr(cost(command(root), root.servers, cold=cold, cwd=root.path), figure)
        for name, value in taken.items():
            values[name].append(value)
            ratios[name].append(value / max(taken[base.name], 1e-9))
    return {n: median(v) for n, v in ratios.items()}, {n: median(v) for n, v in values.items()}


def show(values: dict[str, float], unit: str, digits: int = 2) -> str:
    return ", ".join(f"{name} {value:.{digits}f}" for name, value in values.items()) + f" {unit}"


# --- conversion ----------------------------------------------------------------------------------------------------------


def convert_speed(subject: Subject, rounds: int) -> Result:
    figures: dict[str, list[float]] = {"default": [], "level 3": [], "nydus": []}
    cores = []
    for _ in range(rounds):
        for name, options in (("default", []), ("level 3", ["--level", "3"])):
            target = subject.folder / "speed"
            shutil.rmtree(target, ignore_errors=True)
            taken = cost([str(lacewing()), "convert", "--json", *options, subject.usual.source, f"oci:{target}:x"])
            figures[name].append(subject.usual.plain_bytes / 1e6 / taken.cpu)
            cores.append(taken.cpu / taken.wall)
        if subject.binaries:
            taken = cost(build_nydus(subject.binaries, subject.usual.tree, subject.folder / "nydus-speed"))
            figures["nydus"].append(subject.usual.plain_bytes / 1e6 / taken.cpu)
    best = {name: median(values) for name, values in figures.items() if values}
    return Result(f"{best['default']:.0f} / {best['level 3']:.0f}; {median(cores):.1f} cores",
                  show(best, "plain MB per CPU second (nydus: from a folder)", 0))


def stored_size(layout: Path) -> int:
    """Bytes of Lacewing's own blobs in a layout: indexes and data."""
    total = 0
    for file in (layout / "blobs/sha256").iterdir():
        if file.stat().st_size < 1 << 20:
            try:
                manifest = json.loads(file.read_text())
            except ValueError:
                continue
            if "lacewing" in manifest.get("artifactType", ""):
                total += sum(layer["size"] for layer in manifest["layers"])
    return total


def tree_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def zstd_size(tars: list[Path]) -> int:
    return sum(int(run("sh", "-c", f"zstd -3 -q -c {tar} | wc -c")) for tar in tars)


def converted_size(subject: Subject, _rounds: int) -> Result:
    base = zstd_size(subject.usual.layers)
    sizes = {}
    for name, options in (("default", []), ("level 3", ["--level", "3"])):
        target = subject.folder / "size"
        shutil.rmtree(target, ignore_errors=True)
        run(lacewing(), "convert", "--json", *options, subject.usual.source, f"oci:{target}:x")
        sizes[name] = stored_size(target)
    if subject.usual.nydus:
        sizes["nydus"] = tree_size(subject.usual.nydus)
    ratios = {name: size / base for name, size in sizes.items()}
    return Result(f"{ratios['default']:.3f} / {ratios['level 3']:.3f}",
                  show({"zstd -3": base / 1e6, **{n: s / 1e6 for n, s in sizes.items()}}, "MB", 1))


def second_version(subject: Subject, _rounds: int) -> Result:
    target = subject.folder / "second"
    shutil.rmtree(target, ignore_errors=True)
    run(lacewing(), "convert", subject.usual.source, f"oci:{target}:v1")
    before = {f.name for f in (target / "blobs/sha256").iterdir()}
    original = {f.name for f in Path(subject.second.split(":")[1], "blobs/sha256").iterdir()}
    run(lacewing(), "convert", subject.second, f"oci:{target}:v2")
    new = sum(f.stat().st_size for f in (target / "blobs/sha256").iterdir() if f.name not in before | original)
    seen: set[bytes] = set()
    distinct = subject.folder / "distinct"
    with distinct.open("wb") as out:
        for version, tars in ((1, subject.usual.layers), (2, subject.second_layers)):
            for tar in tars:
                for content in regular_contents(tar):
                    for at in range(0, len(content), 4096):
                        block = content[at:at + 4096]
                        if block not in seen and block.strip(b"\0"):
                            seen.add(block)
                            if version == 2:
                                out.write(block)
    least = zstd_size([distinct])
    return Result(f"{new / least:.2f}", f"{new / 1e6:.1f} MB stored, index included; {least / 1e6:.1f} MB of distinct new 4 KiB blocks as one zstd -3 stream")


def regular_contents(tar: Path):
    import tarfile
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.isreg() and member.size:
                yield archive.extractfile(member).read()


# --- mounted -------------------------------------------------------------------------------------------------------------


def mount_time(subject: Subject, rounds: int) -> Result:
    at = subject.folder / "mount"
    first = Lacewing("first", at / "first", subject.usual.converted)
    store = first.store
    first.close()
    ours, theirs = [], []
    for _ in range(rounds):
        root = Lacewing("again", at / "again", subject.usual.converted, store=store)
        ours.append(root.mount_seconds * 1e3)
        root.close()
        if subject.usual.nydus:
            other = Nydus(at / "nydus", subject.binaries, subject.usual.nydus)
            theirs.append(other.mount_seconds * 1e3)
            other.close()
    detail = {"whole `lacewing mount`, process start included": median(ours)}
    if theirs:
        detail["nydusd"] = median(theirs)
    return Result(f"{median(ours):.0f} ms", show(detail, "ms", 1))


def walk(roots: Roots, rounds: int) -> Result:
    command = lambda root: ["find", ".", "-ls"]  # noqa: E731
    cold, seconds = compare(roots.all, roots.ext4, rounds, command, cold=True)
    warm, _ = compare(roots.all, roots.ext4, rounds, command, cold=False)
    return Result(f"{cold['complete']:.2f} / {warm['complete']:.2f}",
                  "cold " + show(seconds, "CPU s") + "; ratio cold " + show(cold, "") + "; again " + show(warm, ""))


def small_files(roots: Roots, rounds: int) -> Result:
    files = regular_files(roots.ext4.path)
    reached, details = {}, []
    for order in ("directory", "random"):
        listing = roots.ext4.folder.parent / f"list-{order}"
        chosen = files if order == "directory" else random.sample(files, len(files))
        listing.write_text("\n".join(chosen))
        ratios, seconds = compare(roots.all, roots.ext4, rounds, lambda root: [READER, "files", str(listing)], cold=True)
        reached[order] = ratios
        details.append(f"{order}: {show(seconds, 'CPU s')}; ratios {show(ratios, '')}")
    return Result("; ".join(f"{name} {reached['directory'][name]:.2f} / {reached['random'][name]:.2f}"
                            for name in ("incomplete", "complete")),
                  f"{len(files)} files. " + "; ".join(details))


def large_file(roots: Roots, rounds: int) -> Result:
    name = largest_file(roots.ext4.path)
    gib = os.path.getsize(roots.ext4.path / name) / (1 << 30)
    _, seconds = compare(roots.all, roots.ext4, rounds, lambda root: [READER, "seq", name], cold=True)
    per_gib = {root: value / gib for root, value in seconds.items()}
    return Result(f"{per_gib['incomplete']:.2f} / {per_gib['complete']:.2f}", show(per_gib, f"CPU s per GiB ({gib * 1024:.0f} MiB file)"))


def cache_taken(roots: Roots, rounds: int) -> Result:
    files = regular_files(roots.ext4.path)
    listing = roots.ext4.folder.parent / "list-cache"
    listing.write_text("\n".join(files))
    taken: dict[str, list[float]] = {root.name: [] for root in roots.all}
    for _ in range(rounds):
        for root in random.sample(roots.all, len(roots.all)):
            drop_caches()
            before = page_cache()
            cost([READER, "files", str(listing)], root.servers, cwd=root.path)
            taken[root.name].append(page_cache() - before)
    middle = {name: median(values) for name, values in taken.items()}
    base = middle["overlayfs"]
    return Result(f"{middle['incomplete'] / base:.2f} / {middle['complete'] / base:.2f}", show(middle, "MiB", 0))


def warm(roots: Roots, rounds: int) -> Result:
    files = regular_files(roots.ext4.path)
    listing = roots.ext4.folder.parent / "list-warm"
    listing.write_text("\n".join(files))
    large = largest_file(roots.ext4.path)
    worst, details = {}, []
    for what, command in {
        "small files": lambda root: [READER, "files", str(listing)],
        "large file": lambda root: [READER, "seq", large],
        "random 4 KiB": lambda root: [READER, "random", large, "100000", "7"],
        "faults": lambda root: [READER, "faults", large],
        "find": lambda root: ["find", ".", "-ls"],
    }.items():
        ratios, _ = compare(roots.all, roots.ext4, rounds, command, cold=False, figure="wall")
        for name, value in ratios.items():
            worst[name] = max(worst.get(name, 0), value)
        details.append(f"{what} {show({n: 1 / v for n, v in ratios.items()}, '')}")
    return Result(f"{1 / worst['incomplete']:.2f} / {1 / worst['complete']:.2f} (worst)", "speed over overlayfs's: " + "; ".join(details))


def with_roots(measure: Callable[[Roots, int], Result]) -> Callable[[Subject, int], Result]:
    def measured(subject: Subject, rounds: int) -> Result:
        with Roots(subject) as roots:
            return measure(roots, rounds)
    return measured


# --- nothing local -------------------------------------------------------------------------------------------------------


def contenders(subject: Subject) -> list[str]:
    return ["lacewing"] + (["nydus"] if subject.binaries else [])


def fresh(subject: Subject, name: str, number: int) -> Root:
    """A root with nothing local, over files of this machine."""
    at, image = subject.folder / "fresh" / f"{name}-{number}", subject.usual
    if name == "lacewing":
        return Lacewing(name, at, image.converted)
    return Nydus(at, subject.binaries, image.nydus)


def read_all(subject: Subject, rounds: int) -> Result:
    seconds: dict[str, list[float]] = {name: [] for name in contenders(subject)}
    memory: dict[str, list[float]] = {name: [] for name in contenders(subject)}
    for number in range(rounds):
        for name in contenders(subject):
            root = fresh(subject, name, number)
            taken = cost(["sh", "-c", "find . -type f -exec cat {} + >/dev/null"], root.servers, cold=True, cwd=str(root.path))
            seconds[name].append(taken.server)
            memory[name].append(resident(root.servers[0]))
            root.close()
            shutil.rmtree(root.folder, ignore_errors=True)
    middle = {name: median(values) for name, values in seconds.items()}
    return Result(f"{middle['lacewing']:.2f}", show(middle, "daemon CPU s") + "; RSS afterwards "
                  + show({name: median(values) for name, values in memory.items()}, "MiB", 0))


def random_reads(subject: Subject, rounds: int) -> Result:
    mean: dict[str, list[float]] = {name: [] for name in contenders(subject)}
    decoded: dict[str, list[float]] = {name: [] for name in contenders(subject)}
    trips, ranges = [], []
    with Far(subject) as far:
        for number in range(rounds):
            for name in contenders(subject):
                root = far.root(name, number)
                taken = cost([READER, "random", DATABASE, "200", "7"], root.servers, cold=True, cwd=str(root.path))
                mean[name].append(taken.output["mean_us"] / 1e3)
                kept = root.store / "packs" if isinstance(root, Lacewing) else root.cache
                decoded[name].append(sum(path.stat().st_blocks for path in kept.iterdir()) * 512 / 1e6)
                root.close()
                shutil.rmtree(root.folder, ignore_errors=True)
            trips.append(far.round_trip_ms())
            ranges.append(far.range_ms())
    size = (subject.large.tree / DATABASE).stat().st_size >> 20
    return Result(f"{median(decoded['lacewing']):.0f} MB; {median(mean['lacewing']):.2f} ms",
                  "plain MB on disk afterwards: " + show({n: median(v) for n, v in decoded.items()}, "MB", 0)
                  + "; mean " + show({n: median(v) for n, v in mean.items()}, "ms")
                  + f" ({size} MiB file; docker-registry behind a relay, one byte and back {median(trips):.2f} ms, "
                  + f"a range of 64 KiB by a plain client {median(ranges):.2f} ms)")


ROWS = [
    Row("convert", "convert from gzip layers, plain MB per CPU second, default level / `--level 3`; cores in use", "100 / 150; all", convert_speed),
    Row("size", "converted size, index included, over the same image as zstd -3 layers, default / `--level 3`", "1.05 / 1.08", converted_size),
    Row("second", "second version of an image: new bytes stored over distinct new bytes", "1.2", second_version),
    Row("mount", "mount of a converted image, index already local", "5 ms", mount_time),
    Row("walk", "`find -ls` of the container's root, cold / again: CPU of both sides over overlayfs on ext4", "1.0 / 1.0", with_roots(walk)),
    Row("small", "small files read, chunks local, page cache cold, directory order / random order: CPU of both sides over overlayfs",
        "incomplete 1.1 / 1.4, complete 1.0 / 1.1", with_roots(small_files)),
    Row("large", "large file, chunks local, page cache cold: CPU s per GiB, both sides, incomplete / complete layer", "0.65 / 0.3", with_roots(large_file)),
    Row("cache", "page cache taken by small files read once, over overlayfs, incomplete / complete", "1.1", with_roots(cache_taken)),
    Row("read-all", "read all files once, nothing local: daemon CPU s", "0.8", read_all),
    Row("random", "200 random 4 KiB reads, nothing local: plain bytes decoded; mean ms", "60 MB; 1.5", random_reads),
    Row("warm", "warm page cache, any access, incomplete / complete", "0.95 of overlayfs's speed", with_roots(warm)),
]
