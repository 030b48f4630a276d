"""Converted images run lazily under every containerd, and look as they do with overlayfs."""

import itertools

from cases import Case, for_each
from lab.containers import CRI, CTR, running
from lab.corpus import REALISTIC
from lab.images import shell, write_busybox
from lab.process import mounts_below, run, wait_until
from lab.rawtar import DIRECTORY, TarWriter
from lab.walk import differences

IMAGES = [*REALISTIC, "python-zstd", "python-multi", "busybox", "edge", "twice", "layers-100"]
GENERATIONS = [1, 2]


def layer_blobs(case: Case, name: str, content: set[str]) -> set[str]:
    return case.world.layer_digests(name) & content


@for_each([*((name, 1, CRI) for name in IMAGES), *((name, generation, CTR) for name in IMAGES for generation in GENERATIONS)])
class Lazy(Case):
    """Under 1.6 by CRI, and by a client that pulls with unpack and sends no image name; under 2.x by `ctr image pull`."""

    def check(self, name: str, generation: int, how: str) -> None:
        node, image, reference = self.world.node(generation).containerd, self.world.images[name], self.world.lazy(name)
        namespace = "default" if how == CTR else "k8s.io"
        if how == CTR:
            node.pull(reference, "lacewing")
        else:
            node.client("cri-pull", reference)
        self.assertEqual(layer_blobs(self, name, node.content(namespace)), set(), "layers in the content store: the pull was not lazy")
        if how == CTR:
            self.assertIn("ready", node.run(reference, "lacewing", f"ready-{name}", *image.ready))
        else:
            self.assertIn("ready", node.client("-user", "0", "cri-run", reference, *image.ready))
        with running(node, how, reference, "lacewing") as container:
            self.assert_same(differences(self.world.expected_root(name, generation, how), container.root(), self.world.since))
            self.assertIn("ready", container.exec(*image.ready, user=1000))
        self.assertEqual(layer_blobs(self, name, node.content(namespace)), set(), "layers came later")


@for_each(itertools.product(["busybox", "edge", "twice", "layers-100"], GENERATIONS))
class View(Case):
    """The read-only view of a snapshot, with nothing of a container in it."""

    def check(self, name: str, generation: int) -> None:
        node = self.world.node(generation).containerd
        node.pull(self.world.lazy(name), "lacewing")
        found = self.world.view_tree(node, "lacewing", name)
        self.assert_same(differences(self.world.expected(name, generation), found, self.world.since))


@for_each(itertools.product(IMAGES, GENERATIONS))
class WithoutLacewing(Case):
    """A converted image is an ordinary one to a containerd that knows nothing of Lacewing."""

    def check(self, name: str, generation: int) -> None:
        node, reference = self.world.plain_node(generation), self.world.lazy(name)
        # What it shows is known by then; unpacked twice for each generation, the images would take 10 GB.
        self.addCleanup(node.remove_images)
        expected = self.world.expected(name, generation)
        node.pull(reference, "overlayfs", namespace="converted")
        self.assertEqual(layer_blobs(self, name, node.content("converted")), self.world.layer_digests(name))
        self.assert_same(differences(expected, self.world.view_tree(node, "overlayfs", name, "converted"), self.world.since))
        self.assertIn("ready", node.run(reference, "overlayfs", f"ready-{name}", *self.world.images[name].ready, namespace="converted"))


def often(tar: TarWriter) -> None:
    """A layer with directories that no other has: overlayfs merges them if the image holds it twice."""
    for path in ("often/", "often/one/", "often/one/two/", "often/replaced/", "often/replaced/in/"):
        tar.add(path, DIRECTORY)
    tar.add("often/one/file", data=b"often\n")


def between(tar: TarWriter) -> None:
    tar.add("often/.wh.replaced")
    tar.add("often/added", data=b"added\n")


@for_each([("incomplete", 1), ("incomplete", 2), ("complete", 2)])
class LayerRepeated(Case):
    """One layer four times in an image: link counts of directories tell how many layers have them."""

    def check(self, complete: str, generation: int) -> None:
        world, name = self.world, "often"
        if name not in world.images:
            same = world.layout.layer(often)
            layers = [world.layout.layer(write_busybox), same, same, world.layout.layer(between), same, same]
            world.layout.image(name, layers, {"Cmd": shell("echo ready")})
            world.images[name] = None
        node, lazy = world.new_node(generation, background=complete == "complete"), world.lazy(name)
        node.containerd.pull(lazy, "lacewing")
        self.assertEqual(layer_blobs(self, name, node.containerd.content()), set())
        if complete == "complete":
            node.daemon.wait_complete(lazy)
        expected = world.expected_root(name, generation, CTR)
        # A bare directory has as many links as it has directories in it, and two; a merged one has one.
        self.assertEqual(expected[b"/often/one"].links, 1)
        with running(node.containerd, CTR, lazy, "lacewing") as container:
            self.assert_same(differences(expected, container.root(), world.since))
        node.containerd.start_container(lazy, "lacewing", "made", "sleep", "100000")
        for reboot in (False, True):
            node.containerd.ctr("task", "kill", "-s", "9", "made")
            wait_until(lambda: "STOPPED" in node.containerd.ctr("task", "ls"), "end of the container")
            node.containerd.ctr("task", "rm", "made")
            node.containerd.process.kill()
            node.daemon.kill_all()
            if reboot:
                for point in mounts_below(node.daemon.root):
                    run("umount", "-l", point)
            node.daemon.start()
            node.containerd.start()
            node.containerd.ctr("task", "start", "-d", "made")
            self.assertEqual(node.containerd.exec("made", "cat", "/often/one/file"), "often\n")
        node.containerd.remove_container("made")
        node.containerd.ctr("image", "rm", "--sync", lazy)
        node.containerd.ctr("content", "prune", "references")
        wait_until(lambda: not list((node.daemon.root / "l").iterdir()), "removal of the layers")
