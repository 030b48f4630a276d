"""`lacewing pull --nodes`: other members' containerds pull an image, of registries that they know."""

import contextlib

from cases import Case
from lab.paths import lacewing
from lab.process import CommandFailed, run, wait_until
from lab.registry import free_port
from world import Node


class Preheat(Case):
    def node(self, number: int, port: int, registries: str) -> Node:
        secret = self.world.lab.directory("preheat") / "secret"
        secret.write_text("a secret for tests, which is long enough\n")
        section = (f'[p2p]\nseeds = ["127.0.7.1:{port}"]\nlisten = "127.0.7.{number}:{port}"\n'
                   f'secret_file = "{secret}"\nregistries = [{registries}]\nack_timeout_ms = 2000\n')
        return Node(*self.world.lab.node(2, self.world.registry, extra=section))

    def test_on_all_members(self) -> None:
        image, port = self.world.lazy("redis"), free_port()
        known = f'"{self.world.registry.address}"'
        # The third would pull nothing on another node's word.
        nodes = [self.node(1, port, known), self.node(2, port, known), self.node(3, port, "")]
        try:
            members = lambda node: int(node.daemon.status()["counters"].get("p2p_members", 0))
            wait_until(lambda: all(members(node) == 2 for node in nodes), "the swarm", 120, 0.2)
            with self.assertRaises(CommandFailed) as failed:
                run(lacewing(), "pull", "--nodes", "all", "--address", nodes[0].daemon.socket, image)
            told = failed.exception.output
            self.assertIn(f"127.0.7.2:{port}: pulled", told)
            self.assertIn("none of this node's registries", told)
            self.assertIn("1 of 3 nodes have not pulled it", told)
            for node, expected in zip(nodes, (True, True, False)):
                layers = [layer for layer in node.daemon.status()["layers"] if layer["image"] == image]
                self.assertEqual(bool(layers) and all(layer["lazy"] for layer in layers), expected)
        finally:
            for node in nodes:
                with contextlib.suppress(CommandFailed):
                    node.containerd.remove_everything()
                node.containerd.stop()
                node.daemon.stop()
