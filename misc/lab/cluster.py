"""A rollout on a cluster of network namespaces: what it costs the registry, and how long it takes.

N times containerd and `lacewing daemon`, each in a namespace of its own behind a link of limited speed, and a registry behind a
link of the same speed. All pull one converted image at once, read a start-up set, then everything; every byte is compared.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import statistics
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from .bittorrent import Swarm
from .netns import REGISTRY, Network, address
from .nodes import Containerd, Daemon
from .paths import SCRATCH
from .oci import PLAIN, Layout
from .outcome import Outcome, tell
from .process import CommandFailed, Process, kill_using, succeeds, unmount_below, wait_until
from .registry import Registry, fill
from .scratch import Lab
from .tool import convert

PORT = 7070
FILES = 416
STARTUP = 24


def make_image(folder: Path, mib: int) -> tuple[Layout, str]:
    """One layer of files, half of each random and half text, and the SHA-256 of all of them in order of names."""
    folder.mkdir(parents=True)
    layout, chance, digest = Layout(folder), random.Random(5), hashlib.sha256()
    size = (mib << 20) // FILES // 2

    def contents(tar) -> None:
        tar.add(b"data/", b"5", mode=0o755)
        for number in range(FILES):
            line = f"file {number} of an image for measurements, line after line\n".encode()
            data = chance.randbytes(size) + (line * (size // len(line) + 1))[:size]
            digest.update(data)
            tar.add(f"data/{number:04}".encode(), data=data)

    layout.image("rollout", [layout.layer(contents, PLAIN)])
    return layout, digest.hexdigest()


class FarRegistry(Registry):
    """The same data served again in the registry's namespace."""

    def __init__(self, near: Registry, folder: Path, network: Network):
        folder.mkdir(parents=True)
        self.address, self.network = f"{REGISTRY}:5000", network
        config = fill("registry.yml", folder / "config.yml", DIR=near.process.log.parent, ADDRESS=self.address, QUIET="true")
        self.process = Process("registry", network.inside(0, ["docker-registry", "serve", config]), folder / "log")

    def _answers(self) -> bool:
        probe = f"import urllib.request as r; r.urlopen('http://{self.address}/v2/', timeout=5)"
        return succeeds(*self.network.inside(0, [sys.executable, "-c", probe]))


@dataclass
class Machine:
    """A node of the cluster."""

    number: int
    daemon: Daemon
    containerd: Containerd | None
    startup_s: float = 0.0
    all_s: float = 0.0
    error: str = ""
    killed: bool = False
    progress: int = 0


@dataclass
class Idle:
    """What daemons cost that do nothing: of each, bytes a second sent, CPU seconds a second, and MiB resident."""

    sent: list[float]
    cpu: list[float]
    resident: list[float]


def config(lab_folder: Path, containerd: Path, certs: Path, number: int, seeds: list[str] | None) -> str:
    text = (f'[containerd]\naddress = "{containerd}"\n\n[registry]\nhosts_dir = "{certs}"\n\n'
            '[lazy]\nread_timeout_s = 300\n')
    if seeds:
        # Sixteen daemons on two cores answer late; on machines of their own the default is right.
        text += (f'\n[p2p]\nseeds = {json.dumps(seeds)}\nlisten = "{address(number)}:{PORT}"\n'
                 f'secret_file = "{lab_folder}/secret"\nregistries = ["{REGISTRY}:5000"]\nack_timeout_ms = 1000\n')
    return text


class Cluster:
    """Machines on a network; started and stopped as a whole."""

    def __init__(self, lab: Lab, network: Network, near: Registry, nodes: int, peers: bool, bare: bool = False):
        """`bare`: daemons alone, without a containerd beside each."""
        self.lab, self.network, self.peers, self.bare = lab, network, peers, bare
        self.folder = lab.directory(f"cluster{len(lab.parts)}")
        (self.folder / "secret").write_text("a secret for measurements, long enough\n")
        certs = self.folder / "certs" / f"{REGISTRY}:5000"
        certs.mkdir(parents=True)
        (certs / "hosts.toml").write_text(f'server = "http://{REGISTRY}:5000"\n')
        self.registry = FarRegistry(near, self.folder / "r", network)
        lab.parts.append(self.registry)
        self.registry.start()
        self.machines = [self._machine(number) for number in range(1, nodes + 1)]

    def _machine(self, number: int) -> Machine:
        folder = self.folder / f"c{number}"
        seeds = [f"{address(other)}:{PORT}" for other in (1, 2)] if self.peers else None
        text = config(self.folder, folder / "sock", self.folder / "certs", number, seeds)
        daemon = Daemon(self.folder / f"d{number}", text)
        containerd = None if self.bare else Containerd(folder, 2, self.registry, daemon)
        for part in filter(None, (daemon, containerd)):
            part.process.command = self.network.inside(number, part.process.command)
            self.lab.parts.append(part)
        daemon.process.env["LACEWING_LOG"] = os.environ.get("LACEWING_LOG", "info")
        if containerd:
            containerd.process.env["GOMAXPROCS"] = "1"
        return Machine(number, daemon, containerd)

    def start(self) -> None:
        for machine in self.machines:
            machine.daemon.process.start()
            if machine.containerd:
                machine.containerd.process.start()
        for machine in self.machines:
            wait_until(machine.daemon.ready, f"daemon {machine.number}", 120)
            if machine.containerd:
                wait_until(machine.containerd.ready, f"containerd {machine.number}", 120)
        if self.peers:
            others = len(self.machines) - 1
            for machine in self.machines:
                wait_until(lambda machine=machine: self.knows(machine, others), f"node {machine.number} knows {others}", 120, 0.2)

    @staticmethod
    def knows(machine: Machine, others: int) -> bool:
        counters = machine.daemon.status()["counters"]
        return int(counters.get("p2p_members", 0)) == others and int(counters.get("p2p_links", 0)) >= 2 * others

    def rollout(self, image: str, digest: str, kill: int, slow: int, total: int, stored: int) -> Outcome:
        """Every machine pulls and reads at once."""
        before = [self.network.sent(machine) for machine in range(len(self.machines) + 1)]
        for machine in self.machines[:slow]:
            self.network.limit(machine.number, max(1, self.network.mbit // 10))
        begun = time.monotonic()
        threads = [threading.Thread(target=self._read, args=(machine, image, digest, begun)) for machine in self.machines]
        for thread in threads:
            thread.start()
        victims = self.machines[len(self.machines) - kill:] if kill else []
        if victims:
            half = lambda: all(victim.progress >= total // 2 or victim.error for victim in victims)
            wait_until(half, "half of the image", 1800, 0.1)
            for victim in victims:
                victim.killed = True
                victim.daemon.kill_all()
        for machine, thread in zip(self.machines, threads):
            if not machine.killed:
                thread.join()
        sent = [self.network.sent(machine) - before[machine] for machine in range(len(self.machines) + 1)]
        living = [machine for machine in self.machines if not machine.killed]
        return Outcome(
            len(self.machines), stored, sent[0], [m.all_s for m in living], [sent[m.number] for m in living],
            [f"node {m.number}: {m.error}" for m in living if m.error], [m.startup_s for m in living],
            [m.daemon.status()["counters"] for m in living], slow)

    @staticmethod
    def _pull(machine: Machine, image: str) -> None:
        """As the kubelet, which tries again when containerd gives a busy registry up."""
        for attempt in range(3):
            try:
                machine.containerd.pull(image, "lacewing")
                return
            except CommandFailed:
                if attempt == 2:
                    raise

    def _read(self, machine: Machine, image: str, digest: str, begun: float) -> None:
        try:
            self._pull(machine, f"{REGISTRY}:5000/{image}")
            layer = next((machine.daemon.root / "l").iterdir()) / "data"
            for number in range(0, FILES, FILES // STARTUP):
                (layer / f"{number:04}").read_bytes()
            machine.startup_s = time.monotonic() - begun
            found = hashlib.sha256()
            for number in range(FILES):
                data = (layer / f"{number:04}").read_bytes()
                found.update(data)
                machine.progress += len(data)
            machine.all_s = time.monotonic() - begun
            if found.hexdigest() != digest:
                machine.error = "WRONG BYTES"
        except Exception as error:  # noqa: BLE001 - told in the outcome
            machine.error = f"{type(error).__name__}: ...{str(error)[-300:]}"

    def idle(self, seconds: int) -> Idle:
        """What each machine's worker costs while nothing goes on."""
        def sent() -> list[int]:
            return [self.network.sent(machine.number) for machine in self.machines]

        def cpu() -> list[float]:
            return [sum(cpu_s(worker) for worker in machine.daemon.workers()) for machine in self.machines]

        bytes_before, cpu_before, begun = sent(), cpu(), time.monotonic()
        time.sleep(seconds)
        took = time.monotonic() - begun
        rates = [(after - before) / took for after, before in zip(sent(), bytes_before)]
        used = [(after - before) / took for after, before in zip(cpu(), cpu_before)]
        return Idle(rates, used, [resident_mib(worker) for machine in self.machines for worker in machine.daemon.workers()])

    def stop(self) -> None:
        for machine in self.machines:
            if machine.containerd:
                machine.containerd.stop()
            machine.daemon.stop()
        self.registry.stop()
        kill_using(self.folder)
        unmount_below(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def cpu_s(pid: int) -> float:
    """CPU seconds of all threads of a process."""
    total = 0
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(file.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            pass  # it ended
    return total / 1e9


def resident_mib(pid: int) -> float:
    words = Path(f"/proc/{pid}/statm").read_text().split()
    return int(words[1]) * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def measure_idle(nodes: int, mbit: int, seconds: int) -> dict[str, Idle]:
    """What the piece layer costs when nothing goes on, beside daemons without it, which have nothing to do now and then and are
    looked at for a fifth of the time."""
    found = {}
    with Lab("cluster") as lab, Network(nodes, mbit) as network:
        near = lab.registry()
        near.stop()
        for name, peers, period in (("without", False, max(seconds // 5, 1)), ("piece layer", True, seconds)):
            cluster = Cluster(lab, network, near, nodes, peers, bare=True)
            try:
                cluster.start()
                time.sleep(15)  # what comes of the start is no idle cost
                idle = found[name] = cluster.idle(period)
                print(f"{name}: {nodes} nodes idle for {period} s, each: "
                      f"{statistics.mean(idle.sent):.0f} bytes/s sent (most {max(idle.sent):.0f}), "
                      f"{100 * statistics.mean(idle.cpu):.3f} % of a core (most {100 * max(idle.cpu):.3f}), "
                      f"{statistics.mean(idle.resident):.1f} MiB resident", flush=True)
            finally:
                cluster.stop()
    return found


ALONE, REGISTRY_ONLY, PIECES, BITTORRENT = "one node alone", "registry only", "piece layer", "BitTorrent"


@dataclass(frozen=True)
class Rollout:
    """What is rolled out, to whom, and what goes wrong. Links in Mbit/s, the image's files in MiB."""

    nodes: int
    mib: int
    mbit: int = 40
    kill: int = 0
    slow: int = 0

    def disk(self) -> int:
        """Bytes it needs at most."""
        return self.nodes * self.mib * 2 << 20


def measure(rollout: Rollout, contenders: list[str]) -> dict[str, Outcome]:
    """Runs each contender, one after the other, and prints what it showed. What goes wrong does so with the piece layer and
    BitTorrent alone."""
    found: dict[str, Outcome] = {}
    with Lab("cluster") as lab, Network(rollout.nodes, rollout.mbit) as network:
        layout, digest = make_image(lab.folder / "image", rollout.mib)
        near = lab.registry()
        plain = near.push(layout, "rollout", "plain", "1")
        convert(plain, f"{near.address}/rollout:1")
        manifest = near.image_manifest("rollout", "1")
        index_digest, index_len = manifest["layers"][0]["annotations"]["containerd.io/snapshot/lacewing/index"].split(",")
        blobs = accelerator_bytes(near, index_digest) or 0
        stored = blobs + int(index_len)
        near.stop()
        print(f"image: {rollout.mib} MiB of files, {stored / 1e6:.0f} MB stored; links of {rollout.mbit} Mbit/s", flush=True)
        for name in contenders:
            if name == BITTORRENT:
                blob = next(file for file in near.process.log.parent.rglob("data") if file.is_file() and file.stat().st_size == blobs)
                found[name] = by_bittorrent(lab, network, rollout, blob)
            else:
                found[name] = by_daemons(lab, network, near, rollout, name, digest, stored)
            alone = found.get(ALONE)
            tell(name, found[name], alone.whole[0] if alone and name != ALONE else None)
    return found


def by_daemons(lab: Lab, network: Network, near: Registry, rollout: Rollout, name: str, digest: str, stored: int) -> Outcome:
    peers, nodes = name == PIECES, 1 if name == ALONE else rollout.nodes
    cluster = Cluster(lab, network, near, nodes, peers)
    try:
        cluster.start()
        kill, slow = (rollout.kill, rollout.slow) if peers else (0, 0)
        return cluster.rollout("rollout:1", digest, kill, slow, rollout.mib << 20, stored)
    finally:
        for machine in range(1, nodes + 1):
            network.limit(machine, rollout.mbit)
        cluster.stop()


def by_bittorrent(lab: Lab, network: Network, rollout: Rollout, blob: Path) -> Outcome:
    swarm = Swarm(lab.folder / "bittorrent", network, blob, rollout.nodes)
    try:
        return swarm.rollout(rollout.kill, rollout.slow)
    finally:
        swarm.stop()


def main() -> None:
    parser = argparse.ArgumentParser(prog="misc/cluster", description=__doc__)
    parser.add_argument("nodes", type=int, choices=range(1, 129), metavar="N", help="nodes, 1 to 32; with --idle, to 128")
    parser.add_argument("--mbit", type=int, default=40, help="speed of every link, the registry's too [40]")
    parser.add_argument("--mib", type=int, default=512, help="size of the image's files [512]")
    parser.add_argument("--kill", type=int, default=0, help="nodes that are killed when they have half of it")
    parser.add_argument("--slow", type=int, default=0, help="nodes whose link has a tenth of the speed")
    parser.add_argument("--registry-only", action="store_true", help="the same without the piece layer, too")
    parser.add_argument("--bittorrent", action="store_true", help="the same bytes by a BitTorrent swarm, too (pip3 install libtorrent)")
    parser.add_argument("--idle", type=int, default=0, metavar="S", help="instead: what daemons cost that do nothing for S seconds, without a containerd beside them")
    parser.add_argument("--no-alone", action="store_true", help="leave the run of one node alone out")
    args = parser.parse_args()
    if args.nodes > 32 and not args.idle:
        parser.error("more than 32 nodes only with --idle, where no containerd runs beside them")
    if args.idle:
        measure_idle(args.nodes, args.mbit, args.idle)
        return
    rollout = Rollout(args.nodes, args.mib, args.mbit, args.kill, args.slow)
    needed, free = rollout.disk(), shutil.disk_usage(SCRATCH).free
    if free < needed:
        parser.error(f"{args.nodes} nodes need {needed >> 30} GiB of disk in {SCRATCH}, {free >> 30} GiB are free")
    wanted = {ALONE: not args.no_alone, REGISTRY_ONLY: args.registry_only, PIECES: True, BITTORRENT: args.bittorrent}
    measure(rollout, [name for name, chosen in wanted.items() if chosen])


def accelerator_bytes(registry: Registry, index_digest: str) -> int:
    """Bytes of the blobs that the accelerator manifest of an image lists, without indexes."""
    tags = json.loads(registry.request("GET", "/v2/rollout/tags/list")[2])["tags"]
    total = 0
    for tag in tags:
        found = registry.manifest("rollout", tag)
        for document in [found, *(registry.manifest("rollout", member["digest"]) for member in found.get("manifests", []))]:
            for layer in document.get("layers", []):
                if "lacewing" in layer["mediaType"] and "index" not in layer["mediaType"]:
                    total = max(total, 0) + int(layer["size"])
    return total


if __name__ == "__main__":
    main()
