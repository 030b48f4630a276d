"""What the piece layer costs and gives: the sections of misc/docs/rollouts.md, each a table."""

import importlib.util
import statistics
from contextlib import closing
from dataclasses import dataclass
from typing import Callable

from lab import cluster, corpus, files
from lab.cluster import ALONE, BITTORRENT, PIECES, REGISTRY_ONLY, Rollout
from lab.mirror import Door, Mirrors, pull_at_once
from lab.outcome import Outcome
from lab.scratch import Lab

from . import simulated

HEAD = ("| contender | registry sent, copies | start-up set, median / last, s | everything, median / last, s | of one node alone | "
        "upload max/mean | requests to peers / registry | hedges | failed |\n|---|---|---|---|---|---|---|---|---|")
IMAGE = "python"


@dataclass(frozen=True)
class Scale:
    """What the command line says otherwise than a section; 0: as the section has it."""

    nodes: int = 0
    mib: int = 0


@dataclass(frozen=True)
class Section:
    """A table. `takes`: minutes on two cores. `programs`: what cargo builds for it. `measure` returns a line of facts and the table."""

    name: str
    about: str
    takes: str
    programs: list[list[str]]
    measure: Callable[[Scale], tuple[str, str]]


def contender(name: str, outcome: Outcome, alone: Outcome | None) -> str:
    """A row."""
    def pair(times: list[float]) -> str:
        return f"{statistics.median(times):.1f} / {max(times):.1f}" if times else ""

    whole = pair(outcome.whole)
    if outcome.slow:
        whole += f"; of the others {outcome.others:.1f}"
    last = outcome.others if outcome.slow else max(outcome.whole)
    ratio = f"{last / alone.whole[0]:.2f}" if alone and outcome is not alone else ""
    uploads = f"{outcome.upload_ratio:.2f}" if outcome.nodes > 1 and outcome.copies < outcome.nodes else ""
    requests = f"{outcome.total('p2p_asked')} / {outcome.total('p2p_asked_registry')}" if name == PIECES else ""
    hedges = str(outcome.total("p2p_hedged")) if name == PIECES else ""
    return (f"| {name} | {outcome.copies:.3f} | {pair(outcome.startup)} | {whole} | {ratio} | {uploads} | {requests} | {hedges} | "
            f"{'; '.join(outcome.errors) or 'none'} |")


def rollout(usual: Rollout, contenders: list[str], aims: tuple[str, str, str]) -> Callable[[Scale], tuple[str, str]]:
    """A section of real daemons. `aims`: for copies, the time of one node alone, and uploads."""
    def measure(scale: Scale) -> tuple[str, str]:
        what = Rollout(scale.nodes or usual.nodes, scale.mib or usual.mib, usual.mbit, usual.kill, usual.slow)
        chosen = [name for name in contenders if name != BITTORRENT or importlib.util.find_spec("libtorrent")]
        found = cluster.measure(what, chosen)
        options = f"{f' --kill {what.kill}' * bool(what.kill)}{f' --slow {what.slow}' * bool(what.slow)}"
        stored = next(iter(found.values())).stored
        facts = f"`misc/cluster {what.nodes} --mib {what.mib}{options}`: links of {what.mbit} Mbit/s, {stored / 1e6:.0f} MB stored"
        copies, ratio, uploads = aims
        rows = [contender(name, outcome, found.get(ALONE)) for name, outcome in found.items()]
        return facts, "\n".join([HEAD, f"| *aim* | {copies} | | | {ratio} | {uploads} | | | none |", *rows])

    return measure


def idle(scale: Scale) -> tuple[str, str]:
    # Each connection gives a sign of life once in 200 s.
    nodes, seconds = scale.nodes or 100, 200
    head = ("| daemons | sent, bytes a second, mean / most | of a core, %, mean / most | resident, MiB |\n|---|---|---|---|\n"
            "| *aim* | 1000 | 0.1 | |")
    rows = [f"| {name} | {statistics.mean(found.sent):.0f} / {max(found.sent):.0f} | "
            f"{100 * statistics.mean(found.cpu):.3f} / {100 * max(found.cpu):.3f} | {statistics.mean(found.resident):.1f} |"
            for name, found in cluster.measure_idle(nodes, 40, seconds).items()]
    return f"{nodes} daemons that do nothing, connected all with all, for {seconds} s, those without for a fifth of that", "\n".join([head, *rows])


def get(scale: Scale) -> tuple[str, str]:
    nodes, mib = scale.nodes or 8, scale.mib or 1024
    servers = [("http", False)] + [("S3 (moto), a signature for each node", True)] * bool(importlib.util.find_spec("moto"))
    lines = ["| server | copies from it | median / last node, s | upload max/mean | failed |", "|---|---|---|---|---|",
             "| *aim* | 1.0 | | | none |"]
    for name, s3 in servers:
        got = files.measure(mib, nodes, s3)
        lines.append(f"| {name} | {got.copies:.4f} | {statistics.median(got.took or [0]):.1f} / {max(got.took or [0]):.1f} | "
                     f"{got.upload_ratio:.2f} | {'; '.join(got.errors) or 'none'} |")
        print(lines[-1], flush=True)
    return f"`lacewing get` of {mib} MiB by {nodes} nodes at once; all on one machine, no link is limited", "\n".join(lines)


def mirror(scale: Scale) -> tuple[str, str]:
    count = scale.nodes or 4
    layout, _ = corpus.build(IMAGE)
    lines = ["| containerd | copies of the blobs | median / last node, s |", "|---|---|---|", "| *aim* | 1.05 | |"]
    with Lab("mirror") as lab:
        registry = lab.registry()
        registry.push(layout, IMAGE, IMAGE, "1")
        manifest = registry.image_manifest(IMAGE, "1")
        blobs = sum(part["size"] for part in [manifest["config"], *manifest["layers"]])
        for generation, release in ((1, "1.6 (the distribution's)"), (2, "2.x")):
            with closing(Door(registry)) as door:
                mirrors = Mirrors(lab, door.address, count)
                nodes = [lab.containerd(generation, registry) for _ in mirrors.daemons]
                took = pull_at_once(mirrors, nodes, f"{door.address}/{IMAGE}:1")
                for node in nodes:
                    node.remove_everything()
                    node.stop()
                mirrors.stop()
            lines.append(f"| {release} | {door.blob_bytes / blobs:.3f} | {statistics.median(took):.1f} / {max(took):.1f} |")
            print(lines[-1], flush=True)
    facts = (f"an ordinary image ({IMAGE}, {blobs / 1e6:.0f} MB in {len(manifest['layers'])} layers) pulled by {count} containerds at "
             f"once, each by its daemon's mirror; bodies of blobs, counted before the registry")
    return facts, "\n".join(lines)


def simulate(scale: Scale) -> tuple[str, str]:
    counts = [scale.nodes] if scale.nodes else [10, 100, 1000]
    scenarios = [(nodes, *scenario) for nodes in counts for scenario in simulated.FAULTS + simulated.READS]
    few = [] if scale.nodes else [(10_000, *simulated.FEW_USERS)]
    return simulated_facts(), simulated.table(scenarios + few)


def simulate_large(scale: Scale) -> tuple[str, str]:
    return simulated_facts(), simulated.table([(scale.nodes or 10_000, *scenario) for scenario in simulated.FAULTS])


def simulated_facts() -> str:
    return f"seed {simulated.SEED}; bound {simulated.BOUND} s"


DAEMON = [["-p", "lacewing"]]
SIMULATION = [["-p", "lacewing-tests", "--bin", "simulate"]]
SECTIONS = [
    Section("rollout", "16 real nodes, 512 MiB, beside one node alone", "4", DAEMON,
            rollout(Rollout(16, 512), [ALONE, PIECES], ("1.05", "1.5", "1.5"))),
    Section("faults", "the same, 3 nodes killed half-way and one link slowed to a tenth", "13", DAEMON,
            rollout(Rollout(16, 512, kill=3, slow=1), [PIECES], ("1.3", "", ""))),
    Section("rivals", "16 nodes, 64 MiB: registry only, and BitTorrent where pip3 install libtorrent was done", "5", DAEMON,
            rollout(Rollout(16, 64), [ALONE, REGISTRY_ONLY, PIECES, BITTORRENT], ("1.05", "1.5", "1.5"))),
    Section("slow", "5 nodes, 48 MiB, one link slowed to a tenth", "5", DAEMON,
            rollout(Rollout(5, 48, slow=1), [ALONE, PIECES, BITTORRENT], ("1.3", "", ""))),
    Section("idle", "100 daemons that do nothing, with and without the piece layer", "5", DAEMON, idle),
    Section("get", "lacewing get of 1 GiB by 8 nodes, from http and from S3; 16 GiB of disk", "6", DAEMON, get),
    Section("mirror", "an ordinary image by 4 containerds of each generation", "2", DAEMON, mirror),
    Section("simulate", "10, 100 and 1,000 simulated nodes, and 10 users among 10,000", "3", SIMULATION, simulate),
    Section("simulate-large", "10,000 simulated nodes", "30", SIMULATION, simulate_large),
]
