"""The daemon as a unit of systemd: it says when it is ready, and what it holds outlives the supervisor itself."""

import re
import socket
import subprocess
import time
from pathlib import Path

from cases import Case, for_each
from lab.containers import CTR, running
from lab.process import wait_until
from lab.service import ServiceManager


def terminate(daemon) -> None:
    """`systemctl restart`."""
    daemon.process.stop()


def kill_both(daemon) -> None:
    """The supervisor crashes; systemd ends what else is in the unit's cgroup (KillMode=mixed)."""
    daemon.kill_all()


def kill_supervisor(daemon) -> None:
    """The supervisor crashes, and its worker is still there when the next one starts."""
    daemon.process.kill()


WAYS = {"terminated": terminate, "killed": kill_both, "orphaned": kill_supervisor}


@for_each([(way,) for way in WAYS])
class Restart(Case):
    def check(self, way: str) -> None:
        world = self.world
        node, image = world.new_node(2, background=False), world.lazy("redis")
        node.daemon.stop()
        manager = ServiceManager(world.lab.directory(f"service-{way}"), node.daemon.process)
        self.addCleanup(manager.close)
        node.daemon.start()
        wait_until(lambda: manager.hear() == ["READY=1"], "READY=1")
        names = set(manager.store)
        # A connection's name ends with its generation and the id of its mount.
        self.assertEqual(sorted(re.sub(r"-0-\d+$", "", name) for name in names), ["fuse", "listener", "trees-plain", "trees-xattrs"])

        node.containerd.pull(image, "lacewing")
        expected = world.expected("redis", 2)
        large = sorted((entry.size, path) for path, entry in expected.items() if entry.kind == "file")[-3:]
        with running(node.containerd, CTR, image, "lacewing") as container:
            for _, path in large:
                WAYS[way](node.daemon)
                if way == "terminated":
                    self.assertEqual(manager.hear()[-1], "STOPPING=1")
                read = subprocess.Popen(["sha256sum", f"/proc/{container.pid}/root{path.decode()}"], stdout=subprocess.PIPE)
                with socket.socket(socket.AF_UNIX) as client:  # containerd's calls wait, they do not fail
                    client.connect(str(node.daemon.socket))
                if way != "orphaned":
                    time.sleep(0.5)
                    self.assertIsNone(read.poll(), "a read ended with nobody there to answer it")
                manager.prepare_start()
                node.daemon.start()
                self.assertEqual(read.communicate(timeout=60)[0].split()[0].decode(), expected[path].content)
                self.assertEqual(read.returncode, 0)
                wait_until(lambda: manager.hear() == ["READY=1"], "READY=1")
                self.assertEqual(set(manager.store), names, "the connection was made anew")
            self.assertIn("ready", container.exec(*world.images["redis"].ready))
        log = Path(node.daemon.process.log).read_text()
        self.assertEqual(log.count("the FUSE connection goes on"), len(large))
