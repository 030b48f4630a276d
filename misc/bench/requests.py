"""Requests that the kernel sends to FUSE servers, by opcode, as its own tracepoint (fuse:fuse_request_send, Linux 6.8) sees
them. Without it nothing is counted."""

import os
import re
import subprocess
from collections import Counter
from pathlib import Path

TRACING = Path("/sys/kernel/tracing")
EVENT = "events/fuse/fuse_request_send"

# For each processor: some hundred thousand requests.
BUFFER_KB = 32 << 10


def available() -> bool:
    if not (TRACING / "events").exists():
        subprocess.run(["mount", "-t", "tracefs", "none", TRACING], stderr=subprocess.DEVNULL)
    return (TRACING / EVENT).exists()


def connections(mounts: list[Path]) -> list[int]:
    """The kernel's numbers of the connections behind these mounts."""
    return sorted({os.minor(os.stat(mount).st_dev) for mount in mounts})


class Requests:
    """Counts the requests of some connections while the body runs."""

    def __init__(self, mounts: list[Path]):
        self.instance = TRACING / "instances" / f"lacewing-{os.getpid()}"
        self.filter = " || ".join(f"connection=={number}" for number in connections(mounts))
        self.counts: Counter[str] = Counter()

    def __enter__(self) -> "Requests":
        self.instance.mkdir()
        (self.instance / "buffer_size_kb").write_text(str(BUFFER_KB))
        (self.instance / EVENT / "filter").write_text(self.filter)
        (self.instance / EVENT / "enable").write_text("1")
        return self

    def __exit__(self, *_) -> None:
        (self.instance / EVENT / "enable").write_text("0")
        with (self.instance / "trace").open() as trace:
            for line in trace:
                if found := re.search(r"fuse_request_send: .*\(?FUSE_(\w+)\)?", line):
                    self.counts[found[1]] += 1
        self.instance.rmdir()

    def __str__(self) -> str:
        return ", ".join(f"{name} {count}" for name, count in self.counts.most_common()) or "none"
