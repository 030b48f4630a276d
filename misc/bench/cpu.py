"""CPU seconds of both sides of a file system: the reader, the daemon that serves it, and the kernel's own threads."""

import json
import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path


def _scheduled(task: str) -> float:
    """Seconds a thread has run (first field of schedstat, in nanoseconds)."""
    try:
        return int(Path(f"{task}/schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0  # ended meanwhile


def process_cpu(pid: int) -> float:
    """CPU seconds of a process's living threads."""
    try:
        return sum(_scheduled(f"/proc/{pid}/task/{task}") for task in os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0.0


def _kernel_threads() -> dict[str, float]:
    found = {}
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and int(Path(f"/proc/{entry}/stat").read_text().rsplit(")", 1)[1].split()[1]) == 2:
                found[entry] = _scheduled(f"/proc/{entry}")
        except OSError:
            pass
    return found


@dataclass
class Cost:
    """What one command cost. Seconds; `cpu` is the sum of the three parts."""

    wall: float
    reader: float
    server: float
    kernel: float
    output: dict | str

    @property
    def cpu(self) -> float:
        return self.reader + self.server + self.kernel

    @property
    def processes(self) -> float:
        return self.reader + self.server


def drop_caches() -> None:
    """Page cache, dentries and inodes: the next access is cold."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def cost(command: list[str], servers: list[int] = (), cold: bool = False, cwd: str | None = None) -> Cost:
    """Runs a reader; `servers` are the processes that serve it."""
    if cold:
        drop_caches()
    before = (sum(map(process_cpu, servers)), _kernel_threads(), resource.getrusage(resource.RUSAGE_CHILDREN))
    start = time.monotonic()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd)
    wall = time.monotonic() - start
    after = (sum(map(process_cpu, servers)), _kernel_threads(), resource.getrusage(resource.RUSAGE_CHILDREN))
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode(errors='replace')[-2000:]}")
    reader = after[2].ru_utime + after[2].ru_stime - before[2].ru_utime - before[2].ru_stime
    kernel = sum(after[1][pid] - before[1].get(pid, 0.0) for pid in after[1])
    text = done.stdout[-4096:].decode(errors="replace")
    try:
        output = json.loads(text)
    except ValueError:
        output = text
    return Cost(wall, reader, after[0] - before[0], kernel, output)


def resident(pid: int, peak: bool = False) -> float:
    """Resident memory of a process in MiB; its peak if wanted."""
    key = "VmHWM:" if peak else "VmRSS:"
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


def page_cache() -> float:
    """MiB of page cache on the machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Cached:"):
            return int(line.split()[1]) / 1024
    return 0.0
