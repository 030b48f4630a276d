"""Push, save and commit of a lazily pulled image: its layers' blobs are given to containerd's content store first."""

import contextlib
import hashlib
import json
from pathlib import Path

from cases import Case, for_each
from lab.nodes import Containerd
from lab.oci import CONFIG_TYPE, GZIP, LAYER_TYPE, MANIFEST_TYPE
from lab.paths import lacewing
from lab.process import CommandFailed, run
from lab.tokens import PrivateRegistry
from world import Node

NAME = "redis"
ONE = ["--platform", "linux/amd64"]


def digest_of(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"


def give(node: Node, image: str, namespace: str = "default") -> str:
    return run(lacewing(), "pull", "--content", "--namespace", namespace, "--address", node.daemon.socket, image)


@for_each([(generation,) for generation in (1, 2)])
class GivenBack(Case):
    """After one lazy pull: what needs the layers' blobs fails, then they are fetched, then it works."""

    def check(self, generation: int) -> None:
        world = self.world
        image, layers = world.lazy(NAME), world.layer_digests(NAME)
        node = world.new_node(generation, background=False)
        containerd, self.other = node.containerd, world.plain_node(generation)
        self.folder = world.lab.directory(f"given-back-{generation}")
        containerd.pull(image, "lacewing")
        self.assertEqual(layers & containerd.content(), set(), "the pull was not lazy")
        file = self.folder / "image.tar"
        with self.assertRaises(CommandFailed) as failed:
            containerd.ctr("image", "export", *ONE, file, image)
        self.assertIn("not found", failed.exception.output)
        # With what the conversion added, so that the image can be pushed as a whole.
        told = give(node, image)
        self.assertIn("in containerd's content store (default)", told)
        self.assertEqual(layers - containerd.content(), set())
        self.assertIn(" 0 fetched", give(node, image))
        self.collected(containerd)
        self.assertEqual(layers - containerd.content(), set(), "containerd does not keep them")
        self.saved(containerd, file, image)
        self.pushed(containerd, image)
        self.committed(containerd, image)
        self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]), "the snapshots are not as they were")

    def collected(self, containerd: Containerd) -> None:
        """containerd's garbage collection, which a removed image starts."""
        containerd.pull(self.world.plain("busybox"), "lacewing")
        containerd.ctr("image", "rm", "--sync", self.world.plain("busybox"))

    def ready(self, image: str, name: str) -> None:
        self.assertIn("ready", self.other.run(image, "overlayfs", name, *self.world.images[NAME].ready))

    def saved(self, containerd: Containerd, file: Path, image: str) -> None:
        containerd.ctr("image", "export", *ONE, file, image)
        self.other.ctr("image", "import", "--snapshotter", "overlayfs", file)
        file.unlink()
        self.ready(image, "saved")

    def pushed(self, containerd: Containerd, image: str) -> None:
        target = f"{self.world.registry.address}/pushed-{containerd.generation}/{NAME}:1"
        containerd.ctr("image", "push", "--plain-http", target, image)
        self.other.pull(target, "overlayfs")
        self.ready(target, "pushed")
        # It is lazy there, too: all that the conversion made has come along.
        run(lacewing(), "check", target)

    def committed(self, containerd: Containerd, image: str) -> None:
        """A container's changes as a layer on top: containerd's differ works on our mounts as on any snapshotter's."""
        containerd.start_container(image, "lacewing", "changed", "sleep", "100000")
        containerd.exec("changed", "sh", "-c", "echo changed >/srv/committed && rm /etc/issue && chmod 700 /srv")
        layer = self.folder / "layer.tar.gz"
        run("sh", "-c", f"{containerd.ctr_program} -a {containerd.socket} snapshots --snapshotter lacewing diff changed >{layer}")
        changed = {name for name in run("tar", "-tzf", layer).split() if not name.endswith("/")}
        self.assertEqual(changed, {"etc/.wh.issue", "srv/committed"})
        target = self.push_on_top(containerd, layer, f"committed-{containerd.generation}/{NAME}")
        self.other.pull(target, "overlayfs")
        look = "cat /srv/committed; test ! -e /etc/issue && stat -c %a /srv"
        said = self.other.run(target, "overlayfs", "committed", "/bin/sh", "-c", look)
        self.assertEqual(said.split(), ["changed", "700"])
        self.ready(target, "again")

    def push_on_top(self, containerd: Containerd, layer: Path, repository: str) -> str:
        """Pushes what the content store has of the image, with a layer on top; the new image's reference."""
        registry, file = self.world.registry, self.folder / "blob"
        manifest = registry.image_manifest(f"lazy/{NAME}", "1")
        config = json.loads(registry.blob(f"lazy/{NAME}", manifest["config"]["digest"]))
        config["rootfs"]["diff_ids"].append("sha256:" + run("sh", "-c", f"zcat {layer} | sha256sum").split()[0])
        config["history"] = []
        for base in manifest["layers"]:
            run("sh", "-c", f"{containerd.ctr_program} -a {containerd.socket} content get {base['digest']} >{file}")
            registry.push_blob(repository, base["digest"], file)
        manifest["layers"].append(self.push_file(repository, layer, LAYER_TYPE + GZIP))
        file.write_text(json.dumps(config))
        manifest["config"] = self.push_file(repository, file, CONFIG_TYPE)
        headers = {"Content-Type": MANIFEST_TYPE}
        status, _, answer = registry.request("PUT", f"/v2/{repository}/manifests/1", json.dumps(manifest).encode(), headers)
        self.assertEqual(status, 201, answer)
        return f"{registry.address}/{repository}:1"

    def push_file(self, repository: str, file: Path, media_type: str) -> dict:
        digest = digest_of(file)
        self.world.registry.push_blob(repository, digest, file)
        return {"mediaType": media_type, "digest": digest, "size": file.stat().st_size}


class Refused(Case):
    """What cannot be given is said, and nothing half-made stays."""

    def test_why(self):
        world, image = self.world, self.world.lazy(NAME)
        node = world.new_node(2, background=False)
        node.containerd.pull(image, "lacewing")
        with self.assertRaises(CommandFailed) as failed:
            give(node, f"{world.registry.address}/not/here:1")
        self.assertIn("not found", failed.exception.output)
        # A layer that the registry lost.
        layer = max(world.registry.image_manifest(f"lazy/{NAME}", "1")["layers"], key=lambda layer: layer["size"])
        registry = world.lab.registry()
        moved = registry.push(world.layout, NAME, NAME, "1")
        node.containerd.ctr("image", "tag", image, moved)
        self.assertEqual(registry.request("DELETE", f"/v2/{NAME}/blobs/{layer['digest']}")[0], 202)
        with self.assertRaises(CommandFailed) as failed:
            give(node, moved)
        self.assertIn(layer["digest"], failed.exception.output)
        self.assertNotIn(layer["digest"], node.containerd.content())
        # The daemon has the credentials, whoever asks.
        with contextlib.closing(PrivateRegistry(world.registry, "someone", "a password")) as door:
            behind = f"{door.address}/lazy/{NAME}:1"
            node.containerd.ctr("image", "tag", image, behind)
            with self.assertRaises(CommandFailed) as failed:
                give(node, behind)
            self.assertIn("forbids it", failed.exception.output)
        self.assertEqual(node.containerd.ctr("content", "active").splitlines()[1:], [])
        give(node, image)
