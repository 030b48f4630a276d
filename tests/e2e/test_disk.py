"""A store with a bound, below containers that read more than it holds; and a disk that is really full.

LACEWING_DISK=full: three images of 500 MB, a quota of 200 MB, five minutes. Without it a smaller set for some seconds.
"""

import contextlib
import hashlib
import json
import os
import random
import tempfile
import time
from pathlib import Path

from cases import Case
from lab import images, tool
from lab.containers import CTR, running
from lab.oci import Layout
from lab.paths import lacewing
from lab.process import run, wait_until
from test_faults import drop_caches, readers

FULL = os.environ.get("LACEWING_DISK") == "full"
IMAGE_MB, QUOTA_MB, SECONDS = (500, 200, 300) if FULL else (60, 64, 15)
QUOTA = QUOTA_MB * 1_000_000 if FULL else QUOTA_MB << 20


def data(seed: int, size: int) -> bytes:
    """Bytes that do not compress away."""
    return random.Random(seed).randbytes(size)


def taken(root: Path) -> int:
    """What the store takes of the disk. Not by du, which fails when a file goes away under it."""
    total = 0
    for entry in os.scandir(root / "packs"):
        with contextlib.suppress(FileNotFoundError):
            total += entry.stat(follow_symlinks=False).st_blocks * 512
    return total


class Disk(Case):
    def image(self, name: str, seed: int, mb: int) -> str:
        """A converted image of busybox and files of 1 MB."""
        def fill(tar):
            images.write_busybox(tar)
            for number in range(mb):
                tar.add(f"data/{number}", data=data(seed * 10_000 + number, 1_000_000))

        with tempfile.TemporaryDirectory(dir=self.world.lab.folder) as folder:
            layout = Layout(Path(folder))
            layout.image(name, [layout.layer(fill)])
            plain = self.world.registry.push(layout, name, name, "1")
        target = f"{self.world.registry.address}/lazy/{name}:1"
        tool.convert(plain, target)
        return target

    def files(self, name: str, seed: int, mb: int) -> Path:
        """What is read of such an image, for reader.py."""
        listed = {f"/data/{n}": [1_000_000, hashlib.sha256(data(seed * 10_000 + n, 1_000_000)).hexdigest()] for n in range(mb)}
        path = self.world.lab.directory(f"disk-{name}") / "files.json"
        path.write_text(json.dumps(listed))
        return path


class Quota(Disk):
    """Three images, each near or above the quota, run and read: the quota holds and every byte is right."""

    def test_readers(self):
        node = self.world.new_node(2, extra=f'[store]\nquota = "{QUOTA}"\n')
        names = {f"quota{seed}": seed for seed in (1, 2, 3)}
        refs = {name: self.image(name, seed, IMAGE_MB) for name, seed in names.items()}
        lists = {name: self.files(name, seed, IMAGE_MB) for name, seed in names.items()}
        most, samples = 0, 0
        with contextlib.ExitStack() as stack:
            started = []
            for name, ref in refs.items():
                node.containerd.pull(ref, "lacewing")
                container = stack.enter_context(running(node.containerd, CTR, ref, "lacewing"))
                root = Path(f"/proc/{container.pid}/root")
                started.append(stack.enter_context(readers(1, root, lists[name], SECONDS + 600)))
            end = time.monotonic() + SECONDS
            enough = lambda: node.daemon.status()["counters"]["evicted_bytes"] > QUOTA // 2
            limit = time.monotonic() + SECONDS + 240
            while time.monotonic() < end or (not enough() and time.monotonic() < limit):
                most = max(most, taken(node.daemon.root))
                samples += 1
                time.sleep(0.1)
                if samples % 20 == 0:
                    drop_caches()
            seen = [one for group in started for one in group.results()]
        counters = node.daemon.status()["counters"]
        print(f"     quota {QUOTA}, most {most} in {samples} looks; {sum(one['bytes'] for one in seen)} bytes in"
              f" {sum(one['files'] for one in seen)} files read, {counters['evicted_bytes']} evicted,"
              f" longest read {max(one['longest'] for one in seen):.2f} s", flush=True)
        self.assertEqual([error for one in seen for error in one["errors"]], [])
        self.assertGreater(counters["evicted_bytes"], QUOTA // 2)
        self.assertEqual(counters["read_errors"], 0)
        self.assertLessEqual(most, QUOTA * 105 // 100)


class Pinned(Disk):
    """`pull --complete`, `pin`, `unpin` and `gc`, as an operator uses them."""

    def test_commands(self):
        node = self.world.new_node(2, background=False, extra=f'[store]\nquota = "{64 << 20}"\n')
        kept, other = self.image("kept", 4, 20), self.image("other", 5, 70)
        to = ["--address", node.daemon.socket]
        node.containerd.pull(kept, "lacewing")
        said = run(lacewing(), "pull", "--complete", "--timeout", "120", *to, kept)
        self.assertIn("here", said)
        run(lacewing(), "pin", *to, kept)
        status = node.daemon.status()
        self.assertEqual(status["store"]["pinned"], [kept])
        self.assertEqual(status["store"]["quota"], 64 << 20)
        node.containerd.pull(other, "lacewing")
        with running(node.containerd, CTR, other, "lacewing") as container:
            root = Path(f"/proc/{container.pid}/root/data")
            for number in range(70):
                self.assertEqual((root / str(number)).read_bytes(), data(50_000 + number, 1_000_000))
        wait_until(lambda: node.daemon.status()["counters"]["evicted_bytes"] > 0, "an eviction")
        layers = {layer["image"]: layer for layer in node.daemon.status()["layers"] if layer["lazy"]}
        of_kept = next(layer for image, layer in layers.items() if "/kept" in image)
        self.assertEqual(of_kept["bytes_present"], of_kept["bytes_total"])
        failure = tool.fails("pull", "--complete", *to, other)
        self.assertIn("quota", failure.output)
        run(lacewing(), "unpin", *to, kept)
        self.assertEqual(node.daemon.status()["store"]["pinned"], [])
        self.assertIn("0 layers", run(lacewing(), "gc", *to))


class Full(Disk):
    """The disk of the store is full: containers read on, and all is well when there is room again."""

    def test_full_disk(self):
        folder = self.world.lab.directory("full-disk")
        disk, mount = folder / "disk", folder / "mount"
        mount.mkdir()
        run("truncate", "-s", "160M", disk)
        run("mkfs.ext4", "-q", "-m", "0", disk)
        run("mount", "-o", "loop", disk, mount)
        try:
            self.on(mount)
        finally:
            run("umount", "-l", mount)

    def on(self, mount: Path) -> None:
        ref = self.image("onfull", 6, 30)
        node = self.world.new_node(2, background=False, place=mount / "daemon")
        node.containerd.pull(ref, "lacewing")
        with running(node.containerd, CTR, ref, "lacewing") as container:
            root = Path(f"/proc/{container.pid}/root/data")
            read = lambda number: self.assertEqual((root / str(number)).read_bytes(), data(60_000 + number, 1_000_000))
            for number in range(10):
                read(number)
            run("sh", "-c", f"cat /dev/zero > {mount}/ballast", check=False)
            drop_caches()
            for number in range(30):
                read(number)
            self.assertGreater(node.daemon.status()["counters"]["unstored"], 0)
            self.assertEqual(node.daemon.status()["counters"]["read_errors"], 0)
            worker = node.daemon.status()["worker_pid"]
            (mount / "ballast").unlink()
            drop_caches()
            before = self.present(node)
            for number in range(30):
                read(number)
            self.assertGreater(self.present(node), before)
            self.assertIn("ready", container.exec("echo", "ready"))
            self.assertEqual(node.daemon.status()["worker_pid"], worker)
        node.containerd.pull(self.world.lazy("busybox"), "lacewing")
        node.containerd.stop()
        node.daemon.stop()

    def present(self, node) -> int:
        return sum(layer["bytes_present"] for layer in node.daemon.status()["layers"])
