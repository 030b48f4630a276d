"""What all end-to-end tests share: a registry with the images, plain and converted, and nodes of both generations."""

import functools
import time
from dataclasses import dataclass

from lab import corpus, tool, views, walk
from lab.containers import CRI, running
from lab.nodes import Containerd, Daemon
from lab.scratch import Lab


@dataclass(frozen=True)
class Node:
    """A containerd with its own `lacewing daemon`."""

    daemon: Daemon
    containerd: Containerd


class World:
    """Made once per run; everything in it is made at its first use."""

    def __init__(self):
        self.since = time.time() - 1
        self.lab = Lab("e2e").__enter__()
        with self.lab.keeping():
            self.registry = self.lab.registry()
        self.layout, self.images = corpus.build()
        self.plain("pause")

    def close(self) -> None:
        self.lab.__exit__(None, None, None)

    @functools.cache
    def plain(self, name: str) -> str:
        """The reference of an image as it is."""
        return self.registry.push(self.layout, name, name, "1")

    @functools.cache
    def lazy(self, name: str) -> str:
        """The reference of a converted image."""
        target = f"{self.registry.address}/lazy/{name}:1"
        tool.convert(self.plain(name), target)
        return target

    @functools.cache
    def node(self, generation: int) -> Node:
        """The shared node of a generation; tests that break things take a `new_node`."""
        with self.lab.keeping():
            return self.new_node(generation)

    def new_node(self, generation: int, **options) -> Node:
        """A node of the test's own."""
        return Node(*self.lab.node(generation, self.registry, **options))

    @functools.cache
    def plain_node(self, generation: int) -> Containerd:
        """A containerd that has never heard of Lacewing."""
        with self.lab.keeping():
            return self.lab.containerd(generation, self.registry)

    def layer_digests(self, name: str) -> set[str]:
        return {layer["digest"] for layer in self.registry.image_manifest(name, "1")["layers"]}

    @functools.cache
    def chain(self, name: str) -> str:
        self.plain(name)
        return views.chain_id(self.registry, name, "1")

    @functools.cache
    def expected(self, name: str, generation: int) -> walk.Tree:
        """What containerd's own overlayfs snapshotter shows of the image."""
        node = self.plain_node(generation)
        node.pull(self.plain(name), "overlayfs")
        return self.view_tree(node, "overlayfs", name)

    def view_tree(self, node: Containerd, snapshotter: str, name: str, namespace: str = "default") -> walk.Tree:
        target = self.lab.directory(f"view-{time.monotonic_ns()}")
        with views.view(node, snapshotter, self.chain(name), target, namespace) as root:
            return walk.walk(root)

    @functools.cache
    def expected_root(self, name: str, generation: int, how: str) -> walk.Tree:
        """What a container of the image shows with containerd's own overlayfs snapshotter."""
        node, reference = self.plain_node(generation), self.plain(name)
        if how == CRI:
            node.client("cri-pull", reference)
        else:
            node.pull(reference, "overlayfs")
        with running(node, how, reference, "overlayfs") as container:
            return container.root()


@functools.cache
def world() -> World:
    return World()
