"""Containers in user namespaces: their files get other owners without a file of the image being touched."""

from cases import Case, for_each
from lab.containers import CTR, running
from lab.pods import runc_bin, with_users_of_their_own
from lab.process import CommandFailed, mounts_below, run, wait_until
from lab.walk import differences, walk

FIRST = 100000
MAPPINGS = ["--uidmap", f"0:{FIRST}:65536", "--gidmap", f"0:{FIRST}:65536"]
# With this the snapshotter maps. Without it the client copies the image, each file with its new owner.
BY_LABELS = [*MAPPINGS, "--remap-labels"]

# Inside: owners as without a namespace, and all that makes overlay copy a file up.
PROBE = """
    set -e
    test "$(stat -c %u:%g / /usr /usr/bin/redis-server | sort -u)" = 0:0
    head -c 4096 /usr/bin/redis-server | grep -q ELF
    echo new >/srv/new && test "$(stat -c %u /srv/new)" = 0
    mkdir /srv/folder && mv /srv/new /srv/folder/
    echo more >>/etc/passwd && tail -n1 /etc/passwd | grep -q more
    chown 33:33 /etc/hostname /etc/group && test "$(stat -c %u /etc/group)" = 33
    chmod 600 /etc/shadow && rm /etc/issue && test ! -e /etc/issue
    echo ready
"""


class Lazy(Case):
    """The client leaves the mapping to the snapshotter, which declares the capability `remap-ids`."""

    def test_starts_without_reading_the_image(self):
        node = self.world.new_node(2, background=False)
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        pulled = node.daemon.status()["counters"]["source_bytes"]
        output = node.containerd.run(image, "lacewing", "mapped", "/bin/sh", "-c", PROBE, options=BY_LABELS)
        self.assertIn("ready", output)
        status = node.daemon.status()
        whole = sum(layer["bytes_total"] for layer in status["layers"])
        here = sum(layer["bytes_present"] for layer in status["layers"])
        self.assertLess(here, whole / 4, "the container's start fetched the image")
        self.assertLess(status["counters"]["source_bytes"] - pulled, whole / 8)
        self.assertEqual(self.world.layer_digests("redis") & node.containerd.content(), set())

    def test_mapped_layers_last_as_long_as_their_container(self):
        daemon, node = (pair := self.world.node(2)).daemon, pair.containerd
        image = self.world.lazy("redis")
        node.pull(image, "lacewing")
        with running(node, CTR, image, "lacewing", options=BY_LABELS) as container:
            container.exec("sh", "-c", "echo new >/srv/new")
            root = walk(f"/proc/{container.pid}/root/srv")
            self.assertEqual({entry.owner for entry in root.values()}, {f"{FIRST}:{FIRST}"})
            self.assertEqual(len(mounts_below(daemon.root / "m")), len(self.world.layer_digests("redis")))
        # The collector paces itself by how long its last run took: ask for a run instead of waiting for one.
        node.ctr("content", "prune", "references")
        wait_until(lambda: not mounts_below(daemon.root / "m"), "removal of the mapped layers")
        self.assertEqual(list((daemon.root / "m").iterdir()), [])

    def test_restarts(self):
        """A container made before everything was killed starts afterwards, also when nothing is mounted any more."""
        daemon, node = (pair := self.world.new_node(2)).daemon, pair.containerd
        image = self.world.lazy("redis")
        node.pull(image, "lacewing")
        node.start_container(image, "lacewing", "made", "sleep", "100000", options=BY_LABELS)
        for reboot in (False, True):
            node.ctr("task", "kill", "-s", "9", "made")
            wait_until(lambda: "STOPPED" in node.ctr("task", "ls"), "end of the container")
            node.ctr("task", "rm", "made")
            node.process.kill()
            daemon.kill_all()
            if reboot:
                for point in mounts_below(daemon.root):
                    run("umount", "-l", point)
            daemon.start()
            node.start()
            node.ctr("task", "start", "-d", "made")
            self.assertIn("ready", node.exec("made", "/bin/sh", "-c", "redis-server --version && echo ready"))


class Pod(Case):
    """A pod with `hostUsers: false` by CRI, as kubelet asks for it."""

    def test_starts_without_reading_the_image(self):
        try:
            runc_bin()
        except CommandFailed as failure:
            self.skipTest(f"no runc with idmapped mounts: {failure}")
        world, name = self.world, "redis"
        node, image = world.new_node(2, background=False), world.lazy(name)
        with_users_of_their_own(node.containerd)
        client = node.containerd.client
        client("cri-pull", image)
        sandbox, container = client("-userns", str(FIRST), "-user", "0", "-keep", "cri-run", image, "sleep", "100000").split()
        self.assertIn(f"0 {FIRST} 65536", " ".join(client("cri-exec", container, "cat", "/proc/self/uid_map").split()))
        self.assertIn("ready", client("cri-exec", container, "sh", "-c", PROBE))
        pid = node.containerd.container_pid(container, "k8s.io")
        self.assertEqual({entry.owner for entry in walk(f"/proc/{pid}/root/srv").values()}, {f"{FIRST}:{FIRST}"})
        layers = [layer for layer in node.daemon.status()["layers"] if layer["image"] == image]
        self.assertTrue(layers and all(layer["lazy"] for layer in layers), layers)
        whole = sum(layer["bytes_total"] for layer in layers)
        self.assertLess(sum(layer["bytes_present"] for layer in layers), whole / 4, "the pod's start fetched the image")
        self.assertLess(node.daemon.status()["counters"]["source_bytes"], whole / 8)
        self.assertEqual(world.layer_digests(name) & node.containerd.content("k8s.io"), set())
        client("cri-remove", sandbox)
        wait_until(lambda: not mounts_below(node.daemon.root / "m"), "removal of the mapped layers")


@for_each([(name, complete) for name in ("redis", "edge", "layers-100") for complete in ("incomplete", "complete")])
class SameAsOverlayfs(Case):
    """The container's root, seen from outside, is what overlayfs shows for the same mappings."""

    def check(self, name: str, complete: str) -> None:
        plain, reference = self.world.plain_node(2), self.world.plain(name)
        plain.pull(reference, "overlayfs")
        with running(plain, CTR, reference, "overlayfs", options=BY_LABELS) as container:
            expected = container.root()
        node, lazy = self.world.new_node(2, background=complete == "complete"), self.world.lazy(name)
        node.containerd.pull(lazy, "lacewing")
        if complete == "complete":
            node.daemon.wait_complete(lazy)
        with running(node.containerd, CTR, lazy, "lacewing", options=BY_LABELS) as container:
            self.assert_same(differences(expected, container.root(), self.world.since))


@for_each([(1,), (2,)])
class Copied(Case):
    """A client that asks for no mapping by the snapshotter copies the image: slow, but it works as with overlayfs."""

    def check(self, generation: int) -> None:
        node, reference = self.world.node(generation).containerd, self.world.lazy("redis")
        node.pull(reference, "lacewing")
        output = node.run(reference, "lacewing", "copied", "/bin/sh", "-c", PROBE, options=MAPPINGS)
        self.assertIn("ready", output)
