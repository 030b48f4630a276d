"""check, inspect, export and mount, and what convert refuses."""

import json

from cases import Case, for_each
from lab import rawmount, tool, views
from lab.corpus import REALISTIC
from lab.paths import lacewing, trees
from lab.process import run, wait_until
from lab.walk import differences, walk

IMAGES = [*REALISTIC, "python-zstd", "busybox", "edge", "twice", "layers-100"]


@for_each((name,) for name in IMAGES)
class Check(Case):
    """The converter's own proof."""

    def check(self, name: str) -> None:
        run(lacewing(), "check", self.world.lazy(name))


@for_each((name,) for name in IMAGES)
class Export(Case):
    """Software that knows nothing of Lacewing accepts each layer's index, and the kernel shows the layer from it."""

    def check(self, name: str) -> None:
        folder = self.world.lab.directory(f"export-{name}")
        images = tool.export(self.world.lazy(name), folder)
        node = self.world.plain_node(2)
        node.pull(self.world.plain(name), "overlayfs")
        with views.view_command(node, "overlayfs", self.world.chain(name), self.world.lab.directory("layers")) as command:
            layers = views.lower_directories(command)
            self.assertEqual(len(images), len(layers))
            for image, layer in zip(images, layers):
                devices = tool.devices_of(image)
                # fsck.erofs calls itself for each directory below a directory: it needs a stack as deep as the tree.
                run("bash", "-c", 'ulimit -s unlimited && exec fsck.erofs "$@"', "fsck", *(f"--device={device}" for device in devices), image)
                with rawmount.erofs(image, devices, folder / "mounted") as mounted:
                    found = walk(mounted, layer=True)
                self.assert_same(differences(walk(layer, layer=True), found, self.world.since))


@for_each((name,) for name in ["busybox", "edge", "redis"])
class Mount(Case):
    """`lacewing mount`, without containerd."""

    def check(self, name: str) -> None:
        target, store = self.world.lab.directory(f"mount-{name}"), self.world.lab.directory(f"store-{name}")
        run(lacewing(), "mount", "--daemonize", "--trees", trees(), "--store", store, self.world.lazy(name), target)
        try:
            self.assert_same(differences(self.world.expected(name, 2), walk(target), self.world.since))
        finally:
            run("umount", target)
        wait_until(lambda: str(store) not in run("cat", "/proc/self/mountinfo"), "the mounts' end")


class Inspect(Case):
    def test_json(self):
        json.loads(run(lacewing(), "inspect", "--json", self.world.lazy("edge")))


@for_each((name,) for name in ["refused-contiguous", "refused-sparse", "refused-link", "refused-whiteout"])
class Refused(Case):
    """What containerd cannot unpack, convert refuses, and says which entry it was."""

    def check(self, name: str) -> None:
        node, plain = self.world.plain_node(2), self.world.plain(name)
        with self.assertRaises(Exception):
            node.pull(plain, "overlayfs", namespace=name)
        failure = tool.fails("convert", plain, f"{self.world.registry.address}/lazy/{name}:1")
        self.assertIn(self.world.images[name].refused, failure.output)


class Layouts(Case):
    """The same without a registry, and the same bytes each time."""

    def test_same_result_from_layout_and_archive(self):
        folder = self.world.lab.directory("layouts")
        source = f"oci:{self.world.layout.folder}:edge"
        run(lacewing(), "convert", source, f"oci:{folder}/a:edge")
        run(lacewing(), "convert", source, f"oci-archive:{folder}/b.tar")
        run("tar", "-xf", folder / "b.tar", "--one-top-level=b", cwd=folder)
        blobs = [{blob.name for blob in (folder / name / "blobs/sha256").iterdir()} for name in ("a", "b")]
        self.assertEqual(blobs[0], blobs[1])
        run(lacewing(), "check", f"oci:{folder}/a:edge")

    def test_second_version_stores_little(self):
        repository = f"{self.world.registry.address}/versions"
        run(lacewing(), "convert", self.world.plain("python"), f"{repository}:1")
        report = tool.convert(self.world.plain("python-2"), f"{repository}:2")
        layers = report["images"][0]["layers"]
        new, plain = (sum(layer[field] for layer in layers) for field in ("new_len", "plain_len"))
        self.assertLess(new, plain / 4)
        run(lacewing(), "check", f"{repository}:2")
