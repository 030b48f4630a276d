"""Docker Engine with the containerd image store: a lazy pull, a container, a commit, and a push once the layers were fetched."""

import json

from cases import Case
from lab.docker import NAMESPACE, Docker, dockerd
from lab.process import CommandFailed
from world import Node

NAME = "redis"


class Engine(Case):
    def test_pull_run_commit_push(self):
        try:
            dockerd()
        except CommandFailed as failure:
            self.skipTest(f"no dockerd: {failure}")
        world = self.world
        node, image = world.new_node(2, background=False), world.lazy(NAME)
        docker = Docker(world.lab.directory("docker"), node.containerd)
        docker.start()
        try:
            self.use(docker, node, image)
        finally:
            docker.stop()

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
        node.containerd.ctr("content", "fetch", "--plain-http", "--platform", "linux/amd64", image, namespace=NAMESPACE)
        self.assertEqual(world.layer_digests(NAME) - content(), set())
        docker.push(target)
        docker.remove("engine")
        other = world.plain_node(2)
        other.pull(target, "overlayfs")
        look = " ".join(["cat /srv/committed;", world.images[NAME].ready[-1]])
        self.assertEqual(other.run(target, "overlayfs", "docker", "/bin/sh", "-c", look).split()[0], "changed")
