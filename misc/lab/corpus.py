"""The images that tests and demo run: built once, kept in the lab's cache as one OCI layout."""

import fcntl
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

from . import edge_images, images
from .images import Image
from .oci import Layout
from .paths import CACHE, PROJECT

FOLDER = CACHE / "images"

# By name; each makes one or more images. Longest first, so that two at a time end together.
GROUPS = {
    "python": images.python, "node": images.node, "java": images.java, "nginx": images.nginx, "redis": images.redis,
    "small": images.small, "edge": edge_images.odd, "twice": edge_images.twice,
    "layers-100": edge_images.hundred_layers, "refused": edge_images.refused,
}

# The five realistic ones.
REALISTIC = ["python", "node", "redis", "java", "nginx"]


def _recipe() -> str:
    """Changes when the sources that make images do."""
    digest = hashlib.sha256()
    for name in ("images", "edge", "edge_images", "rootfs", "rawtar", "oci"):
        digest.update((PROJECT / f"misc/lab/{name}.py").read_bytes())
    return digest.hexdigest()


def build(*groups: str) -> tuple[Layout, dict[str, Image]]:
    """The layout and its images by name; builds the groups that are missing (all, if none is named)."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    layout = Layout(FOLDER)
    with (CACHE / "images.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return layout, _build(layout, groups or tuple(GROUPS))


def _build(layout: Layout, groups: tuple[str, ...]) -> dict[str, Image]:
    file, recipe = FOLDER / "catalogue.json", _recipe()
    catalogue = json.loads(file.read_text()) if file.exists() else {}
    if catalogue.get("recipe") != recipe:
        catalogue = {"recipe": recipe, "groups": {}}

    def one(name: str) -> tuple[str, list[Image]]:
        start = time.monotonic()
        made = GROUPS[name](layout)
        print(f"images: {name} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
        return name, made

    missing = [name for name in GROUPS if name in groups and name not in catalogue["groups"]]
    with ThreadPoolExecutor(2) as pool:
        for name, made in pool.map(one, missing):
            catalogue["groups"][name] = [asdict(image) for image in made]
            file.write_text(json.dumps(catalogue, indent=1))
    return {fields["name"]: Image(**fields) for name in groups for fields in catalogue["groups"][name]}


if __name__ == "__main__":
    for image in build(*sys.argv[1:])[1].values():
        print(f"{image.name:20} {image.note}")
