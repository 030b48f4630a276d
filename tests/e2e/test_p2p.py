"""The piece layer with real daemons: what a rollout costs the registry, and who may be gone while it goes on.

Nodes that lie, and who is let in by which certificate: p2p/tests/sockets.
"""

import os
import re
import signal
import threading

from cases import Case
from lab import tool, views, walk
from lab.paths import PROJECT
from lab.process import wait_until
from lab.registry import Registry, free_port
from test_metrics import exposed, metrics, moved
from world import Node

IMAGE, SMALL = "redis", "busybox"

# Told by the unit tests of `metrics`, or before anything is pulled: what takes a node that lies, fails, is slow or has no use
# for an image.
ELSEWHERE = {
    "lacewing_p2p_wrong_pieces_total", "lacewing_p2p_leaf", "lacewing_p2p_hedges_total", "lacewing_p2p_registry_hedges_total",
    "lacewing_p2p_relayed_pieces_total", "lacewing_p2p_failed_connections_total", "lacewing_p2p_passed_over_total",
    "lacewing_p2p_members", "lacewing_p2p_connections",
}


class Swarm(Case):
    """Nodes of one machine, each with an address of its own in the loopback network, and a registry of their own."""

    def setUp(self) -> None:
        super().setUp()
        self.port = free_port()

    def registry(self, name: str) -> tuple[Registry, str, str]:
        """A registry with a lazy image, and the name containerd gives to what it shows."""
        registry = self.world.lab.registry()
        image = f"{registry.address}/lazy/{name}:1"
        tool.convert(registry.push(self.world.layout, name, name, "1"), image)
        return registry, image, views.chain_id(registry, name, "1")

    def node(self, number: int, registry: Registry, background: bool, secret: str = "one") -> Node:
        file = self.world.lab.directory("swarm") / secret
        file.write_text(f"{secret} secret for tests, which is long enough\n")
        # A loaded machine answers late; nobody is to be taken for dead because of that.
        section = (f'[p2p]\nseeds = ["127.0.8.1:{self.port}", "127.0.8.3:{self.port}"]\nlisten = "127.0.8.{number}:{self.port}"\n'
                   f'secret_file = "{file}"\nregistries = ["{registry.address}"]\nack_timeout_ms = 2000\n')
        return Node(*self.world.lab.node(2, registry, background=background, extra=section))

    def assemble(self, nodes: list[Node]) -> None:
        for node in nodes:
            self.wait(lambda node=node: self.count([node], "p2p_members") == len(nodes) - 1)

    @staticmethod
    def wait(condition) -> None:
        wait_until(condition, "the swarm", 120, 0.2)

    @staticmethod
    def count(nodes: list[Node], counter: str) -> int:
        return sum(int(node.daemon.status()["counters"].get(counter, 0)) for node in nodes)

    def stop(self, nodes: list[Node]) -> None:
        for node in nodes:
            node.containerd.remove_everything()
            node.containerd.stop()
            node.daemon.stop()

    def read(self, node: Node, chain: str) -> walk.Tree:
        """Everything in the image, every byte read."""
        target = self.world.lab.directory(f"swarm-{node.daemon.process.pid}")
        with views.view(node.containerd, "lacewing", chain, target) as root:
            return walk.walk(root)

    def test_a_rollout(self) -> None:
        registry, image, chain = self.registry(IMAGE)
        nodes = [self.node(number, registry, background=number < 4) for number in range(1, 5)]
        first, others, last = nodes[0], nodes[1:3], nodes[3]
        try:
            self.assemble(nodes)
            before = metrics(first.daemon)
            self.costs_one_copy(image, first, others, nodes)
            # Its index comes from the others; of the data it has nothing yet.
            last.containerd.pull(image, "lacewing")
            self.told(before, nodes)
            self.keeps_its_pieces(first, nodes)
            registry.stop()
            self.reads_without_a_registry(last, chain, stalled=others[0], killed=others[1])
        finally:
            self.stop([first, others[0], last])
            others[1].containerd.stop()

    def costs_one_copy(self, image: str, first: Node, others: list[Node], nodes: list[Node]) -> None:
        first.containerd.pull(image, "lacewing")
        first.daemon.wait_complete(image)
        for node in others:
            node.containerd.pull(image, "lacewing")
        for node in others:
            node.daemon.wait_complete(image)
        of_one = self.count([first], "source_bytes")
        self.assertGreater(of_one, 0)
        # Indexes are in the second count alone; they are far less than this. Whoever has not pulled relays.
        self.assertLess(self.count(nodes, "p2p_bytes_from_registry"), 1.25 * of_one, "more than one copy came from the registry")
        self.assertGreater(self.count(others, "p2p_bytes_from_peers"), of_one)
        self.assertEqual(self.count(nodes, "p2p_wrong_pieces"), 0)

    def told(self, before: dict[str, float], nodes: list[Node]) -> None:
        """Metrics of the piece layer are those that the page names, and move."""
        page = (PROJECT / "misc/docs/metrics.md").read_text()
        named = set(re.findall(r"^\| `(lacewing_p2p_\w+)` \|", page, re.M))
        self.assertEqual({name for name in exposed(nodes[0].daemon) if "_p2p_" in name}, named)
        seen = set().union(*(moved(before, metrics(node.daemon)) for node in nodes))
        self.assertEqual(named - seen - ELSEWHERE, set(), "these stood still")
        for gauge in ("lacewing_p2p_members", "lacewing_p2p_connections"):
            self.assertGreater(before[gauge], 0)

    def keeps_its_pieces(self, node: Node, nodes: list[Node]) -> None:
        """A worker that ends unasked leaves its pieces to the next one."""
        held = self.count([node], "p2p_pieces")
        self.assertGreater(held, 0)
        node.daemon.kill_worker()
        wait_until(node.daemon.ready, "the next worker")
        # What was not written yet when it ended is lost.
        self.wait(lambda: self.count([node], "p2p_pieces") > held // 2)
        self.assemble(nodes)
        self.assertEqual(self.count([node], "p2p_bytes_from_registry"), 0)

    def reads_without_a_registry(self, node: Node, chain: str, stalled: Node, killed: Node) -> None:
        """The image is in the cluster: neither the registry nor one node is needed, nor that all who are there answer."""
        found: list[walk.Tree] = []
        from_peers = self.count([node], "p2p_bytes_from_peers")
        reader = threading.Thread(target=lambda: found.append(self.read(node, chain)))
        workers = stalled.daemon.workers()
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        try:
            reader.start()
            self.wait(lambda: self.count([node], "p2p_bytes_from_peers") > from_peers or not reader.is_alive())
            killed.daemon.kill_all()
            reader.join(300)
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGCONT)
        self.assertTrue(found, "the reader failed")
        self.assert_same(walk.differences(self.world.expected(IMAGE, 2), found[0], self.world.since))
        self.assertEqual(self.count([node], "p2p_wrong_pieces"), 0)

    def test_a_stranger_and_a_bad_disk(self) -> None:
        """Who has another secret is alone and reads from the registry; what a disk spoiled goes to nobody."""
        registry, image, chain = self.registry(SMALL)
        member, stranger = self.node(1, registry, True), self.node(2, registry, False, "another")
        nodes = [member, stranger]
        try:
            member.containerd.pull(image, "lacewing")
            member.daemon.wait_complete(image)
            stranger.containerd.pull(image, "lacewing")
            expected = self.world.expected(SMALL, 2)
            self.assert_same(walk.differences(expected, self.read(stranger, chain), self.world.since))
            self.assertEqual((self.count(nodes, "p2p_members"), self.count(nodes, "p2p_bytes_from_peers")), (0, 0))
            self.wait(lambda: self.count([stranger], "p2p_failed_links") > 0)
            # A late joiner of the same cluster asks the member, whose pieces are spoiled, and gets right ones all the same.
            member.daemon.kill_worker()
            wait_until(member.daemon.ready, "the next worker")
            self.spoil(member)
            late = self.node(3, registry, False)
            nodes.append(late)
            self.assemble([member, late])
            late.containerd.pull(image, "lacewing")
            self.assert_same(walk.differences(expected, self.read(late, chain), self.world.since))
            self.assertEqual(self.count([late], "p2p_wrong_pieces"), 0)
        finally:
            self.stop(nodes)

    def spoil(self, node: Node) -> None:
        pieces = list((node.daemon.root / "pieces").iterdir())
        self.assertTrue(pieces)
        for piece in pieces:
            with piece.open("r+b") as file:
                file.seek(piece.stat().st_size // 2)
                byte = file.read(1)
                file.seek(-1, os.SEEK_CUR)
                file.write(bytes([byte[0] ^ 1]))
