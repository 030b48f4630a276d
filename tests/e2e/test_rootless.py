"""A rootless containerd: all of it runs as an ordinary user, in a user namespace of that user's."""

import os
import time

from cases import Case, for_each
from lab.process import run
from lab.rootless import USER

# Without limits: an ordinary user may not write into cgroups of version 1.
NO_CGROUPS = ["--cgroup", "", "--cpu-shares", "0"]

# All that a program in a container sees of its image, a line per path; -xdev leaves out what is mounted there, but for the
# places. Directories without an entry of their own have the time of unpacking with overlayfs.
LIST = r"""
    cd /
    find . -xdev -mindepth 1 ! -type d ! -path './dev/*' -exec stat -c '%n %f %u:%g %h %s %Y %t:%T' {} + | sort
    find . -xdev -mindepth 1 -type d ! -path './dev*' ! -path ./proc ! -path ./sys ! -path ./run -exec stat -c '%n %f %u:%g' {} + | sort
    find . -xdev -type f ! -path './dev/*' -exec sha256sum {} + | sort
"""


def user_of(pid: int) -> tuple[int, bool]:
    """Whom a process runs as, as the machine sees it, and whether it is in a user namespace of its own."""
    return os.stat(f"/proc/{pid}").st_uid, os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")


@for_each((name,) for name in ["redis", "busybox"])
class Rootless(Case):
    """A container is pulled lazily, started, and shows what overlayfs shows as root."""

    def check(self, name: str) -> None:
        # As udev makes it everywhere.
        os.chmod("/dev/fuse", 0o666)
        daemon, node, namespace = self.world.lab.rootless_node(self.world.registry)
        reference = self.world.lazy(name)

        def ctr(*words: str, **options) -> str:
            return run(*namespace.inside, node.ctr_program, "-a", node.socket, *words, **options)

        ctr("image", "pull", "--plain-http", "--snapshotter", "lacewing", reference)
        self.assertEqual(self.world.layer_digests(name) & node.content(), set(), "the pull was not lazy")
        status = daemon.status()
        self.assertTrue(all(layer["lazy"] for layer in status["layers"]), status["layers"])
        self.assertFalse(daemon.by_kernel())
        options = ["--snapshotter", "lacewing", "--runc-root", node.folder / "runc", *NO_CGROUPS]
        ctr("run", "-d", *options, reference, "one", "sleep", "100000")
        try:
            pid = node.container_pid("one")
            for process in [daemon.process.pid, *daemon.workers(), node.process.pid, pid]:
                self.assertEqual(user_of(process), (USER, True))
            total = sum(layer["bytes_total"] for layer in status["layers"])
            here = sum(layer["bytes_present"] for layer in daemon.status()["layers"])
            if name == "redis":
                self.assertLess(here, total / 2, "the start fetched the image")
            log = node.folder / "list"
            command = ["task", "exec", "--exec-id", f"exec-{time.monotonic_ns()}", "--log-uri", f"file://{log}", "one"]
            daemon.kill_worker()
            ctr(*command, "/bin/sh", "-c", LIST)
            expected = self.expected(name)
            self.assert_same(sorted(set(expected.splitlines()) ^ set(log.read_text(errors="backslashreplace").splitlines())))
        finally:
            node.remove_container("one")

    def expected(self, name: str) -> str:
        """The same list from a container of the machine's root, with containerd's own overlayfs snapshotter."""
        node, reference = self.world.plain_node(2), self.world.plain(name)
        node.pull(reference, "overlayfs")
        return node.run(reference, "overlayfs", f"rootless-{name}", "/bin/sh", "-c", LIST)
