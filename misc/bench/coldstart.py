"""From the request for an image to a container that is ready: overlayfs, stargz-snapshotter and Lacewing, each under a containerd
2.x of its own with empty stores, behind a link of limited speed.

All as they come: in the background each fetches when it wants to, which counts as *fetched*. Images are as each program's converter
makes them: without knowing what will be read, and (*recorded*) with a record of one start, made by each program's own command.
"""

import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from lab import cluster, corpus, tool
from lab.images import Image
from lab.netns import REGISTRY, Network
from lab.nodes import Containerd, Daemon
from lab.paths import CACHE, PROJECT, lacewing
from lab.process import Process, kill_using, run, unmount_below, wait_until
from lab.registry import Registry
from lab.scratch import Lab

HEAD = "| image | way | pulled, s | ready, s | fetched until then, MB | all files read, s |\n|---|---|---|---|---|---|"
READ_ALL = ["/bin/sh", "-c", "find / -xdev -type f -exec cat {} + >/dev/null"]
# Ways by name: who shows the layers, and the tag of the image made for it.
WAYS = {
    "overlayfs": ("overlayfs", "plain"),
    "stargz": ("stargz", "estargz"), "stargz, recorded": ("stargz", "estargz-recorded"),
    "lacewing": ("lacewing", "lazy"), "lacewing, recorded": ("lacewing", "lazy-recorded"),
}


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

    def contender(self, snapshotter: str) -> tuple[Path, Containerd, list]:
        """A node with one snapshotter, its folder, and its processes in the order of their starts."""
        self.made += 1
        folder = self.lab.directory(f"n{self.made}")
        server: Daemon | Stargz | None = None
        if snapshotter == "lacewing":
            hosts = folder / "hosts" / f"{REGISTRY}:5000"
            hosts.mkdir(parents=True)
            (hosts / "hosts.toml").write_text(f'server = "http://{REGISTRY}:5000"\n')
            server = Daemon(folder / "d", cluster.config(folder, folder / "c/sock", folder / "hosts", 1, None))
        elif snapshotter == "stargz":
            server = Stargz(folder / "d")
        containerd = Containerd(folder / "c", 2, self.registry, server)
        if snapshotter == "stargz":
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
        snapshotter, tag = WAYS[way]
        folder, node, parts = self.contender(snapshotter)
        reference = f"{REGISTRY}:5000/{image.name}:{tag}"
        run("sync")
        Path("/proc/sys/vm/drop_caches").write_text("3")
        before, begun = self.network.sent(0), time.monotonic()
        node.pull(reference, snapshotter)
        pulled = time.monotonic() - begun
        node.run(reference, snapshotter, "start", *image.ready)
        ready, fetched = time.monotonic() - begun, self.network.sent(0) - before
        node.run(reference, snapshotter, "whole", *READ_ALL)
        whole = time.monotonic() - begun
        self.leave(folder, node, parts)
        return Start(pulled, ready, fetched, whole)

    def leave(self, folder: Path, node: Containerd, parts: list) -> None:
        """Takes a node away."""
        node.remove_everything()
        for part in reversed(parts):
            part.process.stop()
            self.lab.parts.remove(part)
        kill_using(folder)
        unmount_below(folder)
        run("rm", "-rf", "--one-file-system", folder)

    def record(self, image: Image, file: Path) -> None:
        """Records a start of the lazy image."""
        folder, node, parts = self.contender("lacewing")
        reference = f"{REGISTRY}:5000/{image.name}:{WAYS['lacewing'][1]}"
        node.pull(reference, "lacewing")
        run(lacewing(), "record", "--address", parts[0].socket, reference, file, "--", node.ctr_program, "-a", node.socket,
            "run", "--rm", "--snapshotter", "lacewing", "--runc-root", node.folder / "runc", reference, "start", *image.ready)
        self.leave(folder, node, parts)


def publish(lab: Lab, near: Registry, names: list[str]) -> dict[str, Image]:
    """Puts each image into the registry in all forms but those that need a record of Lacewing's."""
    layout, images = corpus.build(*names, "small")
    near.push(layout, "pause", "pause", "1")
    converter = lab.containerd(2, near)
    stargz_program()
    optimize = ["ctr-remote", "-a", converter.socket, "image", "optimize", "--oci", "--net-host"]
    for name in names:
        plain = near.push(layout, name, name, "plain")
        of = {way: plain.removesuffix("plain") + tag for way, (_, tag) in WAYS.items()}
        tool.convert(plain, of["lacewing"])
        converter.pull(plain, "overlayfs")
        # Its record of a start is what it sees in so many seconds.
        run(*optimize, "--period", 15, "--entrypoint", json.dumps(images[name].ready), "--args", "[]", plain, of["stargz, recorded"])
        run(*optimize, "--no-optimize", plain, of["stargz"])
        for way in ("stargz", "stargz, recorded"):
            converter.ctr("image", "push", "--plain-http", of[way])
        converter.remove_images()
    return {name: images[name] for name in names}


def publish_recorded(field: Field, near: Registry, image: Image) -> None:
    """Records a start, and converts the image once more with what it has read."""
    file = field.lab.folder / f"{image.name}.record"
    field.record(image, file)
    of = {way: f"{near.address}/{image.name}:{tag}" for way, (_, tag) in WAYS.items()}
    tool.convert(of["overlayfs"], of["lacewing, recorded"], "--record", str(file))


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
            publish_recorded(field, near, image)
            starts: dict[str, list[Start]] = {way: [] for way in WAYS}
            for _ in range(rounds):
                for way in random.sample(list(WAYS), len(WAYS)):
                    starts[way].append(field.start(way, image))
            lines += lines_of(name, starts)
            print("\n".join(lines[-len(WAYS):]), flush=True)
    return lines
