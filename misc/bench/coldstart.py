"""From the request for an image to a container that is ready: overlayfs, stargz-snapshotter and Lacewing, each under a containerd
2.x of its own with empty stores, behind a link of limited speed.

All as they come: in the background each fetches when it wants to, which counts as *fetched*. Images are as each program's converter
makes them without knowing what will be read.
"""

import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lab import cluster, corpus, tool
from lab.images import Image
from lab.netns import REGISTRY, Network
from lab.nodes import Containerd, Daemon
from lab.paths import CACHE, PROJECT
from lab.process import Process, kill_using, run, unmount_below, wait_until
from lab.registry import Registry
from lab.scratch import Lab

HEAD = "| image | way | pulled, s | ready, s | fetched until then, MB | all files read, s |\n|---|---|---|---|---|---|"
READ_ALL = ["/bin/sh", "-c", "find / -xdev -type f -exec cat {} + >/dev/null"]
TAGS = {"overlayfs": "plain", "stargz": "estargz", "lacewing": "lazy"}


def stargz_program() -> Path:
    """stargz-snapshotter's daemon, made of Debian's packages of it."""
    program = CACHE / "stargz"
    run("go", "build", "-o", program, ".", cwd=PROJECT / "misc/bench/stargz", env={"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"})
    return program


class Stargz:
    """stargz-snapshotter as containerd's proxy plugin; stands where a `Daemon` does."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.root, self.socket = folder / "root", folder / "sock"
        self.process = Process("stargz", [CACHE / "stargz", self.root, self.socket], folder / "log")

    def ready(self) -> bool:
        return self.socket.exists()


@dataclass
class Start:
    """How one start went; seconds since the request for the image."""

    pulled: float
    ready: float
    fetched: int  # bytes that left the registry until then, headers included
    whole: float


class Field:
    """The registry and the node's place; contenders come and go."""

    def __init__(self, lab: Lab, network: Network, near: Registry):
        self.lab, self.network = lab, network
        self.registry = cluster.FarRegistry(near, lab.folder / "far", network)
        lab.parts.append(self.registry)
        self.registry.start()
        self.made = 0

    def contender(self, way: str) -> tuple[Path, Containerd, list]:
        """A node that runs one way, its folder, and its processes in the order of their starts."""
        self.made += 1
        folder = self.lab.directory(f"n{self.made}")
        server: Daemon | Stargz | None = None
        if way == "lacewing":
            hosts = folder / "hosts" / f"{REGISTRY}:5000"
            hosts.mkdir(parents=True)
            (hosts / "hosts.toml").write_text(f'server = "http://{REGISTRY}:5000"\n')
            server = Daemon(folder / "d", cluster.config(folder, folder / "c/sock", folder / "hosts", 1, None))
        elif way == "stargz":
            server = Stargz(folder / "d")
        containerd = Containerd(folder / "c", 2, self.registry, server)
        if way == "stargz":
            config = folder / "c/config.toml"
            config.write_text(config.read_text().replace("proxy_plugins.lacewing", "proxy_plugins.stargz").replace('"lacewing"', '"stargz"'))
        parts = [part for part in (server, containerd) if part]
        for part in parts:
            part.process.command = self.network.inside(1, part.process.command)
            self.lab.parts.append(part)
            part.process.start()
            wait_until(part.ready, f"{part.process.name}\n{part.process.tail()}")
        return folder, containerd, parts

    def start(self, way: str, image: Image) -> Start:
        folder, node, parts = self.contender(way)
        reference = f"{REGISTRY}:5000/{image.name}:{TAGS[way]}"
        run("sync")
        Path("/proc/sys/vm/drop_caches").write_text("3")
        before, begun = self.network.sent(0), time.monotonic()
        node.pull(reference, way)
        pulled = time.monotonic() - begun
        node.run(reference, way, "start", *image.ready)
        ready, fetched = time.monotonic() - begun, self.network.sent(0) - before
        node.run(reference, way, "whole", *READ_ALL)
        whole = time.monotonic() - begun
        node.remove_everything()
        for part in reversed(parts):
            part.process.stop()
            self.lab.parts.remove(part)
        kill_using(folder)
        unmount_below(folder)
        run("rm", "-rf", "--one-file-system", folder)
        return Start(pulled, ready, fetched, whole)


def publish(lab: Lab, near: Registry, names: list[str]) -> dict[str, Image]:
    """Puts each image into the registry in all forms."""
    layout, images = corpus.build(*names, "small")
    near.push(layout, "pause", "pause", "1")
    converter = lab.containerd(2, near)
    stargz_program()
    for name in names:
        plain, estargz, lazy = (near.push(layout, name, name, "plain").replace(":plain", f":{tag}") for tag in TAGS.values())
        tool.convert(plain, lazy)
        converter.pull(plain, "overlayfs")
        run("ctr-remote", "-a", converter.socket, "image", "convert", "--estargz", "--oci", plain, estargz)
        converter.ctr("image", "push", "--plain-http", estargz)
        converter.remove_images()
    return {name: images[name] for name in names}


def lines_of(image: str, starts: dict[str, list[Start]]) -> list[str]:
    def line(way: str, taken: list[Start]) -> str:
        pulled, ready, fetched, whole = (median(getattr(start, field) for start in taken)
                                         for field in ("pulled", "ready", "fetched", "whole"))
        return f"| {image} | {way} | {pulled:.2f} | {ready:.2f} | {fetched / 1e6:.1f} | {whole:.2f} |"
    return [line(way, taken) for way, taken in starts.items()]


def measure(names: list[str], mbit: int, rounds: int) -> list[str]:
    """The table's lines, each printed once it is known."""
    lines = []
    with Network(1, mbit) as network, Lab("start") as lab:
        near = lab.registry()
        images = publish(lab, near, names)
        field = Field(lab, network, near)
        for name, image in images.items():
            starts: dict[str, list[Start]] = {way: [] for way in TAGS}
            for _ in range(rounds):
                for way in random.sample(list(TAGS), len(TAGS)):
                    starts[way].append(field.start(way, image))
            lines += lines_of(name, starts)
            print("\n".join(lines[-len(TAGS):]), flush=True)
    return lines
