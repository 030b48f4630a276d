"""Everything dies at some time: workers, the daemon, containerd, the registry."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from cases import Case
from lab import tool, views
from lab.containers import CTR, running
from lab.process import mounts_below, run, wait_until
from lab.walk import Tree, differences, walk

READER = Path(__file__).resolve().parent / "reader.py"
KILLS = 100
PAUSE = (0.01, 0.4)  # seconds between two kills


def drop_caches() -> None:
    Path("/proc/sys/vm/drop_caches").write_text("3")


def write_list(tree: Tree, file: Path) -> None:
    """What the reader is to read: all files of the image."""
    files = {path.decode(): (entry.size, entry.content) for path, entry in tree.items()
             if entry.kind == "file" and path.isascii() and not path.startswith((b"/proc/", b"/dev/"))}
    file.write_text(json.dumps(files))


class Readers:
    """Readers of a tree in the background, see reader.py."""

    def __init__(self, count: int, root: Path, files: Path, seconds: float):
        self.progress = [files.with_suffix(f".read-{seed}") for seed in range(count)]
        self.running = [
            subprocess.Popen(
                [sys.executable, READER, root, files, str(seconds), str(seed), progress], stdout=subprocess.PIPE, text=True)
            for seed, progress in enumerate(self.progress)
        ]

    def files(self) -> int:
        """How many files they have read until now."""
        return sum(progress.stat().st_size for progress in self.progress if progress.exists())

    def reading(self) -> bool:
        """Whether all of them go on."""
        return all(reader.poll() is None for reader in self.running)

    def results(self) -> list[dict]:
        """Ends them and returns what they saw."""
        for reader in self.running:
            reader.terminate()
        outputs = [reader.communicate(timeout=180)[0] for reader in self.running]
        if any(reader.returncode for reader in self.running):
            statuses = [reader.returncode for reader in self.running]
            raise AssertionError(f"readers ended with {statuses}\n" + "\n".join(outputs))
        return [json.loads(output) for output in outputs]


@contextlib.contextmanager
def readers(count: int, root: Path, files: Path, seconds: float):
    """Readers for `seconds` at most, all of them reading from the first line of the body on."""
    started = Readers(count, root, files, seconds)
    try:
        wait_until(lambda: all(one.exists() and one.stat().st_size for one in started.progress), "the first read files")
        yield started
    finally:
        for reader in started.running:
            reader.kill()
            reader.wait()


class WorkerKilled(Case):
    """A hundred kills of the worker while containers read: no reader notices."""

    def fate(self, node, container) -> str:
        """What became of the container whose files readers could not read."""
        there = Path(f"/proc/{container.pid}").exists()
        return f"its process is {'there' if there else 'gone'}\n{node.containerd.process.tail(40)}"

    def test_storm(self):
        node = self.world.new_node(2)
        image = self.world.lazy("python")
        node.containerd.pull(image, "lacewing")
        files = self.world.lab.directory("storm") / "files.json"
        write_list(self.world.expected("python", 2), files)
        chance = random.Random(7)
        # A loaded machine needs longer to start a worker that can be hit.
        longest = 300
        with running(node.containerd, CTR, image, "lacewing") as container:
            with readers(3, Path(f"/proc/{container.pid}/root"), files, longest) as started:
                killed, end = set(), time.monotonic() + longest
                while len(killed) < KILLS and time.monotonic() < end:
                    time.sleep(chance.uniform(*PAUSE))
                    killed.update(node.daemon.workers())
                    node.daemon.kill_worker()
                    if len(killed) % 10 == 0:
                        drop_caches()
                seen = started.results()
            self.assertEqual([error for one in seen for error in one["errors"]], [], self.fate(node, container))
            self.assertIn("ready", container.exec(*self.world.images["python"].ready, timeout=120))
        self.assertGreaterEqual(len(killed), KILLS)
        self.assertGreater(sum(one["files"] for one in seen), 200)
        self.assertGreater(sum(one["mapped"] for one in seen), 50)
        self.assertGreaterEqual(node.daemon.status()["worker_restarts"], KILLS - 1)


class NoWorker(Case):
    """With nobody serving, where the kernel shows layers: names and attributes go on; complete images start, run and read."""

    def test_find_goes_on(self):
        node = self.world.new_node(2, background=False)
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        with running(node.containerd, CTR, image, "lacewing") as container:
            by_kernel = node.daemon.by_kernel()
            # A supervisor that is stopped starts no new worker.
            os.kill(node.daemon.process.pid, signal.SIGSTOP)
            try:
                self.assertEqual(node.daemon.kill_worker(), 1)
                drop_caches()
                walker = subprocess.Popen(["find", f"/proc/{container.pid}/root/usr", "-ls"], stdout=subprocess.PIPE)
                if not by_kernel:  # who asks waits for the next worker, and gets the same
                    os.kill(node.daemon.process.pid, signal.SIGCONT)
                listed = walker.communicate(timeout=60)[0].splitlines()
                self.assertEqual(walker.returncode, 0)
            finally:
                os.kill(node.daemon.process.pid, signal.SIGCONT)
            expected = [path for path in self.world.expected("redis", 2) if path == b"/usr" or path.startswith(b"/usr/")]
            self.assertEqual(len(listed), len(expected))
            self.assertIn("ready", container.exec(*self.world.images["redis"].ready))

    def test_complete_image_needs_no_daemon(self):
        node = self.world.new_node(2)
        if not node.daemon.by_kernel():
            self.skipTest("layers that the daemon shows always need it")
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        node.daemon.wait_complete(image)
        node.containerd.ctr("container", "create", "--snapshotter", "lacewing", image, "complete", "sleep", "1000")
        target = self.world.lab.directory("complete")
        command = node.containerd.ctr("snapshots", "--snapshotter", "lacewing", "mounts", target, "complete")
        node.daemon.kill_all()
        drop_caches()
        views.mount(command)
        try:
            self.assert_same(differences(self.world.expected("redis", 2), walk(target), self.world.since))
            self.assertIn("ready", run("chroot", target, *self.world.images["redis"].ready))
        finally:
            run("chroot", target, "redis-cli", "-s", "/tmp/redis.sock", "shutdown", "nosave", check=False)
            run("umount", target)
        node.daemon.start()
        node.containerd.remove_container("complete")


class EverythingKilled(Case):
    def check(self, generation: int) -> None:
        node = self.world.new_node(generation)
        image, ready = self.world.lazy("redis"), self.world.images["redis"].ready
        plain = self.world.plain("busybox")
        node.containerd.pull(image, "lacewing")
        node.containerd.pull(plain, "lacewing")
        node.containerd.start_container(image, "lacewing", "before", "sleep", "100000")
        node.containerd.exec("before", "sh", "-c", "echo written >/srv/kept")

        def snapshots() -> list[str]:
            return sorted(node.containerd.ctr("snapshots", "--snapshotter", "lacewing", "ls").splitlines())

        before = snapshots()
        for round_ in range(3):
            node.containerd.process.kill()
            node.daemon.kill_all()
            if round_ == 2:  # as after a reboot: nothing is mounted any more
                for point in mounts_below(node.daemon.root):
                    run("umount", "-l", point)
            node.daemon.start()
            node.containerd.start()
            self.assertEqual(snapshots(), before)
            self.assertIn("ready", node.containerd.run(image, "lacewing", f"after-{round_}", *ready))
            self.assertIn("ready", node.containerd.run(plain, "lacewing", f"plain-{round_}", *self.world.images["busybox"].ready))
            wait_until(lambda: snapshots() == before, "removal of the container's snapshot", 20)
        node.containerd.remove_container("before")

    def test_1(self):
        self.check(1)

    def test_2(self):
        self.check(2)

    def test_containerd_alone(self):
        node = self.world.new_node(2)
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        with running(node.containerd, CTR, image, "lacewing") as container:
            node.containerd.process.kill()
            run("cat", f"/proc/{container.pid}/root/usr/bin/redis-server", timeout=60)
            node.containerd.start()
            self.assertIn("ready", container.exec(*self.world.images["redis"].ready))


class RegistryGone(Case):
    TIMEOUT_S = 4

    def test_cached_reads_and_errors_in_time(self):
        registry = self.world.lab.registry()
        source = registry.push(self.world.layout, "redis", "redis", "1")
        registry.push(self.world.layout, "pause", "pause", "1")
        image = f"{registry.address}/lazy/redis:1"
        tool.convert(source, image)
        daemon, node = self.world.lab.node(2, registry, read_timeout_s=self.TIMEOUT_S, background=False)
        node.pull(image, "lacewing")
        with running(node, CTR, image, "lacewing") as container:
            root = Path(f"/proc/{container.pid}/root")
            cached, missing = root / "usr/bin/redis-cli", root / "usr/bin/perl"
            expected = self.world.expected("redis", 2)
            content = run("sha256sum", cached).split()[0]
            self.assertEqual(content, expected[b"/usr/bin/redis-cli"].content)
            registry.stop()
            drop_caches()
            self.assertEqual(run("sha256sum", cached).split()[0], content)
            start = time.monotonic()
            output = run("cat", missing, check=False, timeout=60)
            self.assertIn("Input/output error", output[-2000:])
            self.assertLess(time.monotonic() - start, self.TIMEOUT_S * 2 + 3)
            # The daemon needs no registry to start again.
            daemon.kill_worker()
            drop_caches()
            self.assertEqual(run("sha256sum", cached).split()[0], content)
            registry.start()
            wait_until(lambda: run("sha256sum", missing, check=False).split()[0] == expected[b"/usr/bin/perl"].content,
                       "the file, with the registry back", 30, pause=0.5)

    def test_restart_without_registry(self):
        registry = self.world.lab.registry()
        source = registry.push(self.world.layout, "redis", "redis", "1")
        registry.push(self.world.layout, "pause", "pause", "1")
        image, ready = f"{registry.address}/lazy/redis:1", self.world.images["redis"].ready
        tool.convert(source, image)
        daemon, node = self.world.lab.node(2, registry)
        node.pull(image, "lacewing")
        daemon.wait_complete(image)
        registry.stop()
        node.process.kill()
        daemon.kill_all()
        for point in mounts_below(daemon.root):
            run("umount", "-l", point)
        daemon.start()
        node.start()
        self.assertIn("ready", node.run(image, "lacewing", "offline", *ready))
