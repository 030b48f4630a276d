"""What the kubelet does: a pod's whole life through containerd's CRI socket, by both ways to pull; image volumes.

LACEWING_VOLUME=full: an image volume with a file of 1 GiB, and how fast it is read once it is complete.
"""

import os
import random
import re
import tempfile
import time
from pathlib import Path
from statistics import median

from cases import Case, for_each
from lab import images, tool
from lab.oci import Layout
from lab.paths import lacewing
from lab.process import CommandFailed, run, wait_until
from test_faults import drop_caches
from world import Node

NAMESPACE = "k8s.io"

# containerd 1.6 pulls by itself; 2.x by the transfer service, or by itself where it is told to.
WAYS = {"classic": 1, "transfer": 2, "local": 2}


# A runtime class of its own, as `misc/deploy/install --snapshotter-for-pods lazy` writes it.
RUNTIME = """
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.lazy]
  runtime_type = "io.containerd.runc.v2"
  snapshotter = "lacewing"
[plugins."io.containerd.cri.v1.images".runtime_platforms.lazy]
  platform = "linux/amd64"
  snapshotter = "lacewing"
"""


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


class Usage(Case):
    """What is told of the disk: bytes that are here, not those an image would have; and a container sees its disk as it is."""

    def test_grows_with_what_is_read(self):
        world, name = self.world, "redis"
        node, image = world.new_node(2, background=False), world.lazy(name)
        client, status = node.containerd.client, node.daemon.status
        client("cri-pull", image)
        sandbox, container = client("-user", "0", "-keep", "cri-run", image, "sleep", "100000").split()
        here = lambda: sum(layer["bytes_present"] for layer in status()["layers"] if layer["lazy"])

        def told() -> int:
            """What the snapshotter says of all snapshots."""
            rows = node.containerd.ctr("snapshots", "--snapshotter", "lacewing", "usage", "-b", namespace=NAMESPACE).splitlines()
            return sum(int(row.split()[1]) for row in rows[1:])

        # Beside layers there is what the pod itself wrote, and pause's ordinary layer. Read-ahead goes on between two questions.
        agree = lambda: wait_until(lambda: 0 < told() - here() < 2 << 20, "the same figures")
        agree()
        for path in ("/usr/bin/redis-cli", "/usr/bin/perl"):
            before = here()
            client("cri-exec", container, "sha256sum", path)
            self.assertGreater(here(), before)
            agree()
        self.assertLess(told(), sum(layer["bytes_total"] for layer in status()["layers"]) * 0.7)
        # CRI itself looks at a committed snapshot once, and never again.
        place, used = client("cri-usage").split()
        self.assertEqual(place, str(node.daemon.root))
        self.assertLessEqual(int(used), told())
        inside = os.statvfs(f"/proc/{node.containerd.container_pid(container, NAMESPACE)}/root")
        disk = os.statvfs(node.daemon.root)
        self.assertEqual((inside.f_blocks, inside.f_frsize), (disk.f_blocks, disk.f_frsize))
        client("cri-remove", sandbox)


class OneRuntime(Case):
    """One runtime class has the snapshotter, the node's other pods keep theirs (containerd 2.x)."""

    def test_its_pods_alone_are_lazy(self):
        world, name = self.world, "redis"
        node, image = world.new_node(2, background=False), world.lazy(name)
        config = node.containerd.folder / "config.toml"
        text = re.sub(r'(cri\.v1\.images"\]\n  snapshotter = )"lacewing"', r'\1"overlayfs"', config.read_text())
        assert '"overlayfs"\n  disable_snapshot' in text
        config.write_text(f"{text}\n{RUNTIME}")
        node.containerd.stop()
        node.containerd.start()
        client = node.containerd.client
        client("-runtime", "lazy", "cri-pull", image)
        self.assertEqual(world.layer_digests(name) & node.containerd.content(NAMESPACE), set(), "the pull was not lazy")
        sandbox, container = client("-runtime", "lazy", "-user", "0", "-keep", "cri-run", image, "sleep", "100000").split()
        self.assertIn("ready", client("cri-exec", container, *world.images[name].ready))
        layers = [layer for layer in node.daemon.status()["layers"] if layer["image"] == image]
        self.assertTrue(layers and all(layer["lazy"] and layer["users"] for layer in layers), layers)
        client("cri-remove", sandbox)
        other, before = world.plain("busybox"), len(node.daemon.status()["layers"])
        client("cri-pull", other)
        client("-user", "0", "cri-run", other, "true")
        self.assertEqual(len(node.daemon.status()["layers"]), before)


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


FULL = os.environ.get("LACEWING_VOLUME") == "full"
FILE_MIB, ROUNDS = (1024, 21) if FULL else (32, 1)


class CompleteVolume(Case):
    """A large file in an image volume: nothing of it is fetched by the mount; once complete no daemon is between."""

    def image(self, content: bytes) -> str:
        def fill(tar):
            images.write_busybox(tar)
            tar.add("data", data=content)

        with tempfile.TemporaryDirectory(dir=self.world.lab.folder) as folder:
            layout = Layout(Path(folder))
            layout.image("volume", [layout.layer(fill)])
            plain = self.world.registry.push(layout, "volume", "volume", "1")
        target = f"{self.world.registry.address}/lazy/volume:1"
        tool.convert(plain, target)
        return target

    def test_is_read_as_a_file_of_the_host(self):
        world, chance = self.world, random.Random(5)
        content = b"".join(chance.randbytes(1 << 20) for _ in range(FILE_MIB))
        volume, on_host = self.image(content), world.lab.directory("volume") / "data"
        on_host.write_bytes(content)
        node, image = world.new_node(2, background=False), world.lazy("busybox")
        client = node.containerd.client
        for each in (image, volume):
            client("cri-pull", each)

        def pod() -> tuple[str, Path]:
            sandbox, container = client("-user", "0", "-keep", "-volume", volume, "cri-run", image, "sleep", "100000").split()
            return sandbox, Path(f"/proc/{node.containerd.container_pid(container, NAMESPACE)}/root/volume/data")

        layers = lambda: [layer for layer in node.daemon.status()["layers"] if layer["image"] == volume]
        sandbox, _ = pod()
        self.assertEqual([(layer["lazy"], layer["bytes_present"]) for layer in layers()], [(True, 0)])
        client("cri-remove", sandbox)
        run(lacewing(), "pull", "--complete", "--timeout", "300", "--address", node.daemon.socket, volume)
        sandbox, in_volume = pod()
        self.assertEqual([layer["direct"] for layer in layers()], [True])
        ratios = [self.seconds(on_host) / self.seconds(in_volume) for _ in range(ROUNDS)]
        print(f"     {FILE_MIB} MiB, host over volume: median {median(ratios):.2f} of {ROUNDS}", flush=True)
        self.assertTrue(in_volume.read_bytes() == content)
        client("cri-remove", sandbox)

    @staticmethod
    def seconds(file: Path) -> float:
        """What reading it from the disk takes."""
        drop_caches()
        begun = time.monotonic()
        run("dd", f"if={file}", "of=/dev/null", "bs=1M")
        return time.monotonic() - begun
