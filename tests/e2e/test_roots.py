"""The root directory itself. containerd's unpack passes over an archive's own entry of it, whatever that says, so that a
container's root is always as the snapshotter made it."""

import itertools

from cases import Case, for_each
from lab.containers import CTR, running
from lab.images import shell, write_busybox
from lab.rawtar import DIRECTORY, TarWriter
from lab.walk import differences

ACL = bytes.fromhex("0200000001000700ffffffff04000500ffffffff08000700e803000010000700ffffffff20000500ffffffff")


def bare(number: int):
    """A layer without an entry of the root."""
    return lambda tar: tar.add(f"bare-{number}", data=b"%d\n" % number)


def strange(name: str, mode: int, owner: int):
    """A layer whose archive says of the root what no container's root is."""
    def fill(tar: TarWriter) -> None:
        xattrs = {"user.root": name.encode(), "system.posix_acl_default": ACL}
        tar.add(name, DIRECTORY, mode=mode, uid=owner, gid=owner + 1, mtime=1_000_000_000, xattrs=xattrs)
        tar.add(f"beside-{owner}", data=b"beside\n")
    return fill


def opaque(tar: TarWriter) -> None:
    """An opaque mark in the root itself."""
    tar.add("./", DIRECTORY, mode=0o700)
    tar.add(".wh..wh..opq")
    tar.add("opaque", data=b"opaque\n")


IMAGES = {
    "roots-none": [write_busybox, bare(1)],
    "roots-bottom": [lambda tar: (strange("./", 0o700, 1000)(tar), write_busybox(tar)), bare(1)],
    "roots-some": [write_busybox, strange("./", 0o4711, 1000), bare(1), strange("/", 0o1777, 2000), bare(2)],
    "roots-top": [write_busybox, bare(1), strange(".", 0, 70000)],
    "roots-opaque": [write_busybox, bare(1), opaque, lambda tar: (write_busybox(tar), bare(2)(tar))],
    "roots-one-layer": [lambda tar: (write_busybox(tar), strange("usr/..", 0o750, 1000)(tar))],
}


@for_each(itertools.product(IMAGES, (1, 2)))
class Roots(Case):
    """Views (of one layer: its own root; of several: an overlay's) and containers are as with overlayfs."""

    def check(self, name: str, generation: int) -> None:
        world = self.world
        if f"{name}-made" not in world.images:
            layers = [world.layout.layer(fill) for fill in IMAGES[name]]
            world.layout.image(name, layers, {"Cmd": shell("echo ready")})
            world.images[f"{name}-made"] = None
        node, lazy = world.node(generation).containerd, world.lazy(name)
        node.pull(lazy, "lacewing")
        self.assertEqual(world.layer_digests(name) & node.content(), set(), "the pull was not lazy")
        expected = world.expected(name, generation)
        self.assertEqual((expected[b"/"].mode, expected[b"/"].owner, expected[b"/"].xattrs), ("0755", "0:0", ()))
        self.assert_same(differences(expected, world.view_tree(node, "lacewing", name), world.since))
        expected = world.expected_root(name, generation, CTR)
        with running(node, CTR, lazy, "lacewing") as container:
            self.assert_same(differences(expected, container.root(), world.since))
