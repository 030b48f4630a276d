"""Mounts of an image's read-only view, as any containerd client makes them."""

import contextlib
import hashlib
import json
import os
import shlex
from pathlib import Path

from .nodes import Containerd
from .process import CommandFailed, run
from .registry import Registry


def chain_id(registry: Registry, repository: str, tag: str) -> str:
    """The name containerd gives to the image's topmost snapshot."""
    manifest = registry.image_manifest(repository, tag)
    config = json.loads(registry.blob(repository, manifest["config"]["digest"]))
    chain = ""
    for diff_id in config["rootfs"]["diff_ids"]:
        chain = diff_id if not chain else f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain


def mount(command: str) -> str:
    """Runs the mount command that `ctr snapshots mounts` prints, and returns the target.

    mount(2) takes one page of options: many lower directories fit only relative to their common folder.
    """
    words = shlex.split(command)
    options = words[-1].split(",")
    folder = "/"
    for n, option in enumerate(options):
        if option.startswith("lowerdir=") and len(words[-1]) > 3500:
            lowers = option.removeprefix("lowerdir=").split(":")
            folder = os.path.commonpath(lowers)
            options[n] = "lowerdir=" + ":".join(os.path.relpath(lower, folder) for lower in lowers)
    run(*words[:-1], ",".join(options), cwd=folder)
    return words[4]


def lower_directories(command: str) -> list[Path]:
    """The layers' directories in the mount command of a view, bottom first."""
    words = shlex.split(command)
    for option in words[-1].split(","):
        if option.startswith("lowerdir="):
            return [Path(lower) for lower in reversed(option.removeprefix("lowerdir=").split(":"))]
    return [Path(words[3])]  # a single layer is bound


@contextlib.contextmanager
def view_command(node: Containerd, snapshotter: str, chain: str, target: Path, namespace: str = "default"):
    """A view of a committed snapshot: yields the command that mounts it, removes it at the end."""
    key = f"view-{target.name}"
    target.mkdir(parents=True, exist_ok=True)

    def snapshots(*words) -> str:
        return node.ctr("snapshots", "--snapshotter", snapshotter, *words, namespace=namespace)

    for attempt in range(5):
        snapshots("view", key, chain)
        try:
            # Without the label the garbage collector takes the view, at times before the label is set.
            snapshots("label", key, "containerd.io/gc.root=1")
            break
        except CommandFailed:
            if attempt == 4:
                raise
    try:
        yield snapshots("mounts", target, key)
    finally:
        snapshots("rm", key)


@contextlib.contextmanager
def view(node: Containerd, snapshotter: str, chain: str, target: Path, namespace: str = "default"):
    """The mounted view of a committed snapshot; unmounted and removed at the end."""
    with view_command(node, snapshotter, chain, target, namespace) as command:
        mount(command)
        try:
            yield target
        finally:
            run("umount", target)
