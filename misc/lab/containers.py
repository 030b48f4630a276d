"""Running containers, by `ctr` or by CRI, behind one face."""

import contextlib
import itertools
from dataclasses import dataclass
from typing import Iterator

from .nodes import Containerd
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


@contextlib.contextmanager
def running(node: Containerd, how: str, reference: str, snapshotter: str, namespace: str = "default") -> Iterator[Running]:
    """Starts a container of an image that is there, and removes it at the end. CRI has its own snapshotter and namespace."""
    if how == CTR:
        name = f"lab-{next(_numbers)}"
        node.start_container(reference, snapshotter, name, *SLEEP, namespace=namespace)
        try:
            yield Running(node, name, namespace, node.container_pid(name, namespace))
        finally:
            node.remove_container(name, namespace)
    else:
        sandbox, name = node.client("-user", "0", "-keep", "cri-run", reference, *SLEEP).split()
        try:
            yield Running(node, name, "k8s.io", node.container_pid(name, "k8s.io"))
        finally:
            node.client("cri-remove", sandbox)
