"""Where things are: the project, the lab's scratch folder, the program under test."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]

# Survives a reboot and is not a tmpfs: overlay needs a file system that can hold upper directories.
SCRATCH = Path(os.environ.get("LACEWING_LAB", "/var/tmp/lacewing-lab"))

# Kept between runs: images, containerd 2.x, Go programs.
CACHE = SCRATCH / "cache"

# One folder per running lab.
RUNS = SCRATCH / "run"


def trees() -> str:
    """Who shows layers in the tests: $LACEWING_TREES is "kernel" or "fuse"; without it, whoever the program finds better."""
    return os.environ.get("LACEWING_TREES", "auto")


def lacewing() -> Path:
    """The program under test: $LACEWING, or what `cargo build` made."""
    if given := os.environ.get("LACEWING"):
        return Path(given)
    target = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target"))
    return target / os.environ.get("LACEWING_PROFILE", "debug") / "lacewing"
