"""Network namespaces as machines: a switch, a registry's machine and nodes, each behind a link of limited speed.

Nothing of it is in the machine's own network but the namespaces' names.
"""

import os
from pathlib import Path

from .process import run

REGISTRY = "10.99.0.1"
ROUTER = "10.99.0.254"

# More machines than this talk by way of a router: the kernel has one table of 1,024 neighbours for all namespaces.
NEIGHBOURS = 30


def address(node: int) -> str:
    """A node's address; nodes count from 1."""
    return f"10.99.1.{node}"


class Network:
    """Use as a context manager. Machine 0 is the registry's."""

    def __init__(self, nodes: int, mbit: int):
        self.prefix = f"lw{os.getpid()}-"
        self.machines = range(nodes + 1)
        self.mbit = mbit

    def name(self, machine: int | str) -> str:
        return f"{self.prefix}{machine}"

    def __enter__(self) -> "Network":
        switch = self.name("sw")
        run("ip", "netns", "add", switch)
        run("ip", "-n", switch, "link", "add", "br0", "type", "bridge", "stp_state", "0", "forward_delay", "0")
        run("ip", "-n", switch, "link", "set", "br0", "up")
        routed = len(self.machines) > NEIGHBOURS
        if routed:
            run("ip", "-n", switch, "addr", "add", f"{ROUTER}/16", "dev", "br0")
            run("nsenter", f"--net=/run/netns/{switch}", "sysctl", "-qw", "net.ipv4.ip_forward=1",
                "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.br0.send_redirects=0")
        for machine in self.machines:
            name, port = self.name(machine), f"p{machine}"
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
            run("ip", "link", "add", port, "netns", switch, "type", "veth", "peer", "name", "eth0", "netns", name)
            run("ip", "-n", switch, "link", "set", port, "master", "br0", "up")
            own = address(machine) if machine else REGISTRY
            run("ip", "-n", name, "addr", "add", f"{own}/{32 if routed else 16}", "dev", "eth0")
            run("ip", "-n", name, "link", "set", "eth0", "up")
            if routed:
                run("ip", "-n", name, "route", "add", ROUTER, "dev", "eth0")
                run("ip", "-n", name, "route", "add", "10.99.0.0/16", "via", ROUTER)
            self.limit(machine, self.mbit)
        return self

    def __exit__(self, *_) -> None:
        for machine in ["sw", *self.machines]:
            run("ip", "netns", "del", self.name(machine), check=False)

    def limit(self, machine: int, mbit: int) -> None:
        """Limits a machine's link in both directions: its download at the switch, its upload at its own end."""
        for space, device in ((self.name("sw"), f"p{machine}"), (self.name(machine), "eth0")):
            run("tc", "-n", space, "qdisc", "del", "dev", device, "root", check=False)
            # Packets of 64 KiB are charged whole and make a slow link bursty.
            run("ip", "-n", space, "link", "set", device, "gso_max_size", "16384", "gso_max_segs", "11", check=False)
            run("tc", "-n", space, "qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "10", "r2q", "1000")
            run("tc", "-n", space, "class", "add", "dev", device, "parent", "1:", "classid", "1:10", "htb", "rate", f"{mbit}mbit",
                "ceil", f"{mbit}mbit", "burst", "128k", "cburst", "128k", "quantum", "60000")
            # As a switch's port has it. Counted in packets, of up to 16 KiB, a slow link's queue would be seconds long.
            run("tc", "-n", space, "qdisc", "add", "dev", device, "parent", "1:10", "handle", "10:", "bfifo", "limit", "256k")

    def inside(self, machine: int, command: list) -> list:
        """A command as it runs on that machine; mounts are those of the whole machine."""
        return ["nsenter", f"--net=/run/netns/{self.name(machine)}", *command]

    def sent(self, machine: int) -> int:
        """Bytes that left a machine, headers included."""
        words = ["cat", "/proc/net/dev"]
        for line in run(*self.inside(machine, words)).splitlines():
            if line.strip().startswith("eth0:"):
                return int(line.split(":")[1].split()[8])
        raise LookupError("no eth0")

    def exists(self) -> bool:
        return Path(f"/run/netns/{self.name('sw')}").exists()
