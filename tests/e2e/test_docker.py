"""Docker Engine with the containerd image store: a lazy pull, a container, a commit, builds on a lazy image, and pushes."""

import contextlib
import json

from cases import Case
from lab.docker import NAMESPACE, Docker, dockerd
from lab.process import CommandFailed
from test_push import give
from world import Node

NAME = "redis"


class Engine(Case):
    @contextlib.contextmanager
    def engine(self):
        """An engine on a node of its own, and a lazy image."""
        try:
            dockerd()
        except CommandFailed as failure:
            self.skipTest(f"no dockerd: {failure}")
        node, image = self.world.new_node(2, background=False), self.world.lazy(NAME)
        docker = Docker(self.world.lab.directory("docker"), node.containerd)
        docker.start()
        try:
            yield docker, node, image
        finally:
            docker.stop()

    def test_pull_run_commit_push(self):
        with self.engine() as (docker, node, image):
            self.use(docker, node, image)

    def test_builds(self):
        """FROM a lazily pulled image, by BuildKit and by the classic builder: its layers stay lazy below the new one."""
        with self.engine() as (docker, node, image):
            docker.pull(image)
            base = self.world.layer_digests(NAME)
            for builder, name in ((2, "buildkit"), (1, "classic")):
                target = f"{self.world.registry.address}/built/{name}:1"
                docker.build(f"FROM {image}\nRUN echo {name} >/srv/built && rm /etc/issue\n", target, builder)
                layers = [layer for layer in node.daemon.status()["layers"] if layer["lazy"]]
                self.assertEqual(len(layers), len(base), "the base was unpacked anew")
                if name == "buildkit":
                    # It reads what its steps read.
                    self.assertLess(sum(layer["bytes_present"] for layer in layers),
                                    sum(layer["bytes_total"] for layer in layers) * 0.5)
                self.assertIn(name, docker.run(target, name, "/bin/sh", "-c", "cat /srv/built; test ! -e /etc/issue"))
                docker.remove(name)
                give(node, image, NAMESPACE)
                docker.push(target)
                other = self.world.plain_node(2)
                other.pull(target, "overlayfs")
                self.assertEqual(other.run(target, "overlayfs", name, "cat", "/srv/built").split(), [name])

    def use(self, docker: Docker, node: Node, image: str) -> None:
        world = self.world
        self.assertEqual(json.loads(docker.call("GET", "/info"))["Driver"], "lacewing")
        docker.pull(image)
        content = lambda: node.containerd.content(NAMESPACE)
        self.assertEqual(world.layer_digests(NAME) & content(), set(), "the pull was not lazy")
        self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]))
        ready = " ".join(["echo changed >/srv/committed;", world.images[NAME].ready[-1]])
        self.assertIn("ready", docker.run(image, "engine", "/bin/sh", "-c", ready))
        layers = node.daemon.status()["layers"]
        self.assertLess(sum(layer["bytes_present"] for layer in layers), sum(layer["bytes_total"] for layer in layers) * 0.7)

        target = f"{world.registry.address}/committed-docker/{NAME}:1"
        docker.call("POST", f"/commit?container=engine&repo={target.rsplit(':', 1)[0]}&tag=1")
        with self.assertRaises(RuntimeError) as failed:
            docker.push(target)
        self.assertIn("not found", str(failed.exception))
        give(node, image, NAMESPACE)
        self.assertEqual(world.layer_digests(NAME) - content(), set())
        docker.push(target)
        docker.remove("engine")
        other = world.plain_node(2)
        other.pull(target, "overlayfs")
        look = " ".join(["cat /srv/committed;", world.images[NAME].ready[-1]])
        self.assertEqual(other.run(target, "overlayfs", "docker", "/bin/sh", "-c", look).split()[0], "changed")
