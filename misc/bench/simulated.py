"""The piece layer's logic in simulated clusters: what is run, and the rows that come of it.

The figures are simulated times: the same on every machine.
"""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.paths import PROJECT

PROGRAM = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "release/simulate"
SEED = 1
BOUND = 0.859
FAULTS = [
    ("healthy", ""),
    ("1 % slow, 1 % crashed", "slow=0.01 crashed=0.01"),
    ("views lack 5 %", "unseen=0.05"),
    ("3 zones", "zones=3"),
]
READS = [
    ("200 blocking reads under prefetch", "reads=200"),
    ("the same, window of 32 pieces", "reads=200 window=32"),
    ("the same, window of 32, 1 % slow, 1 % crashed", "reads=200 window=32 slow=0.01 crashed=0.01"),
]
FEW_USERS = ("10 users", "users=10")
HEAD = ("| nodes | scenario | completion p50 / p99, s | slow nodes, last, s | registry copies | upload max/mean | moved / useful | "
        "read p50 / p99, ms | hedges | unfinished |\n|---|---|---|---|---|---|---|---|---|---|")
LINE = re.compile(
    r"p50 (\S+) p99 (\S+) .*slow (\S+) .*copies (\S+) .*\| up (\S+) \| moved (\S+) zones \S+ \| lat (\S+) (\S+) \S+ \| "
    r"hedged (\d+) .*unfinished (\d+)"
)


def simulate(nodes: int, settings: str) -> str:
    """Runs one scenario; returns the line that the program prints."""
    arguments = [f"nodes={nodes}", f"seed={SEED}", *settings.split()]
    return subprocess.run([PROGRAM, *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def row(nodes: int, name: str, line: str) -> str:
    """A row of the table, from the program's line."""
    p50, p99, slow, copies, up, moved, lat50, lat99, hedged, unfinished = LINE.search(line).groups()
    latency = "" if lat99 == "NaN" else f"{lat50} / {lat99}"
    slow = "" if slow == "0.00" else slow
    return f"| {nodes} | {name} | {p50} / {p99} | {slow} | {copies} | {up} | {moved} | {latency} | {hedged} | {unfinished} |"


def table(scenarios: list[tuple[int, str, str]]) -> str:
    """Runs scenarios (nodes, name, settings), one on each processor at a time, and prints each row as it is done."""
    def one(scenario: tuple[int, str, str]) -> str:
        nodes, name, settings = scenario
        line = row(nodes, name, simulate(nodes, settings))
        print(line, flush=True)
        return line

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return "\n".join([HEAD, *pool.map(one, scenarios)])
