"""Converted images run lazily under every containerd, and look as they do with overlayfs."""

import itertools

from cases import Case, for_each
from lab.containers import CRI, CTR, running
from lab.corpus import REALISTIC
from lab.walk import differences

IMAGES = [*REALISTIC, "python-zstd", "python-multi", "busybox", "edge", "twice", "layers-100"]
GENERATIONS = [1, 2]


# See `differences`.
MERGED = {"twice": b"/contents"}


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
            self.assert_same(differences(self.world.expected_root(name, generation, how), container.root(), self.world.since, MERGED.get(name)))
            self.assertIn("ready", container.exec(*image.ready, user=1000))
        self.assertEqual(layer_blobs(self, name, node.content(namespace)), set(), "layers came later")


@for_each(itertools.product(["busybox", "edge", "twice", "layers-100"], GENERATIONS))
class View(Case):
    """The read-only view of a snapshot, with nothing of a container in it."""

    def check(self, name: str, generation: int) -> None:
        node = self.world.node(generation).containerd
        node.pull(self.world.lazy(name), "lacewing")
        found = self.world.view_tree(node, "lacewing", name)
        self.assert_same(differences(self.world.expected(name, generation), found, self.world.since, MERGED.get(name)))


@for_each(itertools.product(IMAGES, GENERATIONS))
class WithoutLacewing(Case):
    """A converted image is an ordinary one to a containerd that knows nothing of Lacewing."""

    def check(self, name: str, generation: int) -> None:
        node, reference = self.world.plain_node(generation), self.world.lazy(name)
        expected = self.world.expected(name, generation)
        node.pull(reference, "overlayfs", namespace="converted")
        self.assertEqual(layer_blobs(self, name, node.content("converted")), self.world.layer_digests(name))
        self.assert_same(differences(expected, self.world.view_tree(node, "overlayfs", name, "converted"), self.world.since))
        self.assertIn("ready", node.run(reference, "overlayfs", f"ready-{name}", *self.world.images[name].ready, namespace="converted"))
