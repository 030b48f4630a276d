"""Running containers, by `ctr` or by CRI, behind one face."""

import contextlib
import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

from .nodes import Containerd
from .process import wait_until
from .walk import Tree, mount_points, walk

CTR, CRI = "ctr", "cri"
SLEEP = ["sleep", "100000"]

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Running:
    """A container that sleeps."""

    node: Containerd
    name: str
    namespace: str
    pid: int

    def exec(self, *command, user: int = 0, **options) -> str:
        return self.node.exec(self.name, *command, user=f"{user}:{user}", namespace=self.namespace, **options)

    def root(self) -> Tree:
        """Its root as the host sees it, without what is mounted inside (proc, dev, resolv.conf, ...)."""
        return walk(f"/proc/{self.pid}/root", skip=mount_points(self.pid))


def asleep(pid: int) -> int:
    """Waits until a process has loaded all it needs to sleep, and returns its id."""
    wait_until(lambda: "nanosleep" in Path(f"/proc/{pid}/wchan").read_text(), f"process {pid} to sleep")
    return pid


@contextlib.contextmanager
def running(node: Containerd, how: str, reference: str, snapshotter: str, namespace: str = "default", options=()) -> Iterator[Running]:
    """Starts a container of an image that is there, and removes it at the end. CRI has its own snapshotter and namespace.

    `options` are more ones of `ctr run`.
    """
    if how == CTR:
        name = f"lab-{next(_numbers)}"
        node.start_container(reference, snapshotter, name, *SLEEP, namespace=namespace, options=options)
        try:
            yield Running(node, name, namespace, asleep(node.container_pid(name, namespace)))
        finally:
            node.remove_container(name, namespace)
    else:
        sandbox, name = node.client("-user", "0", "-keep", "cri-run", reference, *SLEEP).split()
        try:
            yield Running(node, name, "k8s.io", asleep(node.container_pid(name, "k8s.io")))
        finally:
            node.client("cri-remove", sandbox)
