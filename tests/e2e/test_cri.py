"""What the kubelet does: a pod's whole life through containerd's CRI socket, by both ways to pull; image volumes."""

import re

from cases import Case, for_each
from lab.process import CommandFailed, wait_until
from world import Node

NAMESPACE = "k8s.io"

# containerd 1.6 pulls by itself; 2.x by the transfer service, or by itself where it is told to.
WAYS = {"classic": 1, "transfer": 2, "local": 2}


def pulling_itself(node: Node) -> None:
    """Makes containerd 2.x pull in the classic way."""
    config = node.containerd.folder / "config.toml"
    text = re.sub(r'(cri\.v1\.images"\]\n)', r"\1  use_local_image_pull = true\n", config.read_text())
    assert "use_local_image_pull" in text
    config.write_text(text)
    node.containerd.stop()
    node.containerd.start()


@for_each([(way,) for way in WAYS])
class Life(Case):
    """PullImage, RunPodSandbox, CreateContainer, StartContainer, ExecSync, StopPodSandbox, RemovePodSandbox, RemoveImage."""

    def check(self, way: str) -> None:
        world, name = self.world, "redis"
        node, image = world.new_node(WAYS[way], background=False), world.lazy(name)
        if way == "local":
            pulling_itself(node)
        client = node.containerd.client
        client("cri-pull", image)
        self.assertEqual(world.layer_digests(name) & node.containerd.content(NAMESPACE), set(), "the pull was not lazy")
        layers = self.layers(node, image)
        self.assertTrue(layers and all(layer["lazy"] for layer in layers), layers)
        sandbox, container = client("-user", "0", "-keep", "cri-run", image, "sleep", "100000").split()
        self.assertIn("ready", client("cri-exec", container, *world.images[name].ready))
        with self.assertRaises(CommandFailed) as failed:
            client("cri-exec", container, "/bin/false")
        self.assertEqual(failed.exception.status, 1)
        layers = self.layers(node, image)
        self.assertTrue(all(layer["users"] for layer in layers), layers)
        # All of it would be a pull in disguise.
        self.assertLess(sum(layer["bytes_present"] for layer in layers), sum(layer["bytes_total"] for layer in layers) * 0.7)
        client("cri-remove", sandbox)
        wait_until(lambda: not any(layer["users"] for layer in self.layers(node, image)), "removal of the container's snapshot")
        client("cri-remove-image", image)
        wait_until(lambda: not self.layers(node, image), "removal of the image's layers", 60)

    def layers(self, node: Node, image: str) -> list[dict]:
        return [layer for layer in node.daemon.status()["layers"] if layer["image"] == image]


class ImageVolume(Case):
    """A mount whose source is a converted image: only what is read of it is fetched."""

    def test_lazy(self):
        world, name = self.world, "redis"
        node, image, volume = world.new_node(2, background=False), world.lazy("busybox"), world.lazy(name)
        client = node.containerd.client
        for each in (image, volume):
            client("cri-pull", each)
        sandbox, container = client("-user", "0", "-keep", "-volume", volume, "cri-run", image, "sleep", "100000").split()
        path = b"/usr/bin/redis-cli"
        content = client("cri-exec", container, "sha256sum", f"/volume{path.decode()}").split()[0]
        self.assertEqual(content, world.expected(name, 2)[path].content)
        self.assertEqual(world.layer_digests(name) & node.containerd.content(NAMESPACE), set(), "the volume was not lazy")
        layers = [layer for layer in node.daemon.status()["layers"] if layer["image"] == volume]
        self.assertTrue(layers and all(layer["lazy"] for layer in layers), layers)
        self.assertLess(sum(layer["bytes_present"] for layer in layers), sum(layer["bytes_total"] for layer in layers) * 0.7)
        with self.assertRaises(CommandFailed):
            client("cri-exec", container, "sh", "-c", "echo x >/volume/written")
        client("cri-remove", sandbox)
