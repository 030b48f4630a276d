"""Clients that say little, several namespaces, images built on lazy ones, and containerd configured as documented."""

import json
import re

from cases import Case, for_each
from lab.oci import CONFIG_TYPE, MANIFEST_TYPE
from lab.paths import PROJECT
from lab.registry import Registry


def push_json(world, repository: str, value: dict, media_type: str) -> dict:
    descriptor = world.layout.put_json(value, media_type)
    world.registry.push_blob(repository, descriptor["digest"], world.layout.blob_path(descriptor["digest"]))
    return descriptor


def built_from_lazy(world, name: str, repository: str) -> tuple[str, set[str]]:
    """Pushes an image FROM a lazy one as a build tool makes it: the base's layer descriptors as they are, a layer on top.

    Returns its reference and the digests of the base's layers.
    """
    registry: Registry = world.registry
    world.lazy(name)
    manifest = registry.image_manifest(f"lazy/{name}", "1")
    config = json.loads(registry.blob(f"lazy/{name}", manifest["config"]["digest"]))
    base = [layer["digest"] for layer in manifest["layers"]]
    top = world.layout.layer(lambda tar: tar.add("srv/built", data=b"on a lazy base\n"))
    for digest in [*base, top.digest]:
        registry.push_blob(repository, digest, world.layout.blob_path(digest))
    config["rootfs"]["diff_ids"].append(top.diff_id)
    config["history"] = []
    manifest["config"] = push_json(world, repository, config, CONFIG_TYPE)
    manifest["layers"].append(top.descriptor())
    manifest.pop("annotations", None)
    raw = json.dumps(manifest).encode()
    status, _, answer = registry.request("PUT", f"/v2/{repository}/manifests/built", raw, {"Content-Type": MANIFEST_TYPE})
    assert status == 201, answer
    return f"{registry.address}/{repository}:built", set(base)


class Namespaces(Case):
    def check(self, generation: int) -> None:
        node, reference = self.world.new_node(generation).containerd, self.world.lazy("redis")
        for namespace in ("first", "second"):
            node.pull(reference, "lacewing", namespace)
            self.assertEqual(self.world.layer_digests("redis") & node.content(namespace), set())
            self.assertIn("ready", node.run(reference, "lacewing", "ready", *self.world.images["redis"].ready, namespace=namespace))
        node.ctr("image", "rm", "--sync", reference, namespace="first")
        self.assertIn("ready", node.run(reference, "lacewing", "again", *self.world.images["redis"].ready, namespace="second"))

    def test_1(self):
        self.check(1)

    def test_2(self):
        self.check(2)


@for_each([("elsewhere", 1), ("elsewhere", 2), ("lazy/redis", 1), ("lazy/redis", 2)])
class BuiltFromLazy(Case):
    """An image FROM a lazy one, with an ordinary layer on top. Where the base's index is in reach, the base stays lazy."""

    def check(self, repository: str, generation: int) -> None:
        reference, base = built_from_lazy(self.world, "redis", repository)
        node = self.world.new_node(generation).containerd
        node.pull(reference, "lacewing")
        # Of a client that sends no image name, all that is known is the configuration of the base, which it does not have.
        if repository.startswith("lazy/") and generation == 2:
            self.assertEqual(base & node.content(), set(), "the base's layers were fetched")
        ready = " ".join(["set -e;", "cat /srv/built;", self.world.images["redis"].ready[-1]])
        output = node.run(reference, "lacewing", "built", "/bin/sh", "-c", ready)
        self.assertIn("on a lazy base", output)
        self.assertIn("ready", output)


class Status(Case):
    """`lacewing status` says for each layer whether it is lazy, and if not, why."""

    def test_reasons(self):
        node = self.world.new_node(2)
        node.containerd.pull(self.world.lazy("busybox"), "lacewing")
        node.containerd.pull(self.world.plain("redis"), "lacewing")
        layers = node.daemon.status()["layers"]
        lazy = [layer for layer in layers if layer["lazy"]]
        ordinary = [layer for layer in layers if not layer["lazy"]]
        self.assertEqual({layer["image"] for layer in lazy}, {self.world.lazy("busybox")})
        self.assertEqual(len(ordinary), len(self.world.layer_digests("redis")))
        for layer in ordinary:
            self.assertTrue(layer["reason"])


def documented(generation: int) -> str:
    """The configuration of containerd that the documentation shows."""
    page = (PROJECT / "misc/docs/containerd.md").read_text()
    section = page[page.index(f"(`version = {generation + 1}`)"):]
    return re.search(r"```toml\n(.*?)```", section, re.S)[1]


@for_each([(1,), (2,)])
class Documented(Case):
    """A node whose containerd has, for Lacewing, what the documentation shows and no more."""

    # What the lab's own configuration says of the same.
    SAME = [r"(?s)(# The transfer service unpacks|\[proxy_plugins).*", r"version = .*\n",
            r" *(snapshotter|disable_snapshot_annotations|default_runtime_name) = .*\n",
            r' *\[plugins\."io\.containerd\.(cri\.v1\.images"|grpc\.v1\.cri"\.containerd)\]\n']

    def check(self, generation: int) -> None:
        world, name = self.world, "redis"
        node, image = world.new_node(generation, background=False), world.lazy(name)
        config = node.containerd.folder / "config.toml"
        own = config.read_text()
        for same in self.SAME:
            own = re.sub(same, "", own)
        shown = documented(generation).replace("/run/lacewing/lacewing.sock", str(node.daemon.socket))
        first, rest = shown.replace("/var/lib/lacewing", str(node.daemon.root)).split("\n", 1)
        config.write_text(f"{first}\n{own}\n{rest}")
        node.containerd.stop()
        node.containerd.start()
        node.containerd.client("cri-pull", image)
        node.containerd.pull(image, "lacewing")
        for namespace in ("k8s.io", "default"):
            self.assertEqual(world.layer_digests(name) & node.containerd.content(namespace), set(), namespace)
        self.assertIn("ready", node.containerd.client("-user", "0", "cri-run", image, *world.images[name].ready))
