"""Trees that the program itself shows, over FUSE: by `lacewing mount`, also as an ordinary user, and under a storm of kills.

For the daemon the other tests run both ways: `LACEWING_TREES=fuse misc/test`, and some of them on every run of `misc/test`.
"""

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from cases import Case, for_each
from lab import tool
from lab.oci import Layout
from lab.paths import lacewing
from lab.process import run, wait_until
from lab.rawtar import DIRECTORY, REGULAR, SYMLINK, TarWriter
from lab.walk import differences, walk
from test_faults import drop_caches, readers

WALKER = Path(__file__).resolve().parent / "walker.py"

# $LACEWING_KILLS=100 tests/e2e/run test_trees.Storm
KILLS = int(os.environ.get("LACEWING_KILLS", "20"))
LONGEST_S = 60 + 3 * KILLS
PAUSE_S = (0.0, 0.2)  # between two kills


@for_each((name,) for name in ["busybox", "edge", "layers-100"])
class MountOverFuse(Case):
    """`lacewing mount --trees fuse` shows what overlayfs shows."""

    def check(self, name: str) -> None:
        target, store = self.world.lab.directory(f"trees-{name}"), self.world.lab.directory(f"trees-store-{name}")
        run(lacewing(), "mount", "--daemonize", "--trees", "fuse", "--store", store, self.world.lazy(name), target)
        try:
            self.assert_same(differences(self.world.expected(name, 2), walk(target), self.world.since))
        finally:
            run("umount", target)
        wait_until(lambda: str(store) not in run("cat", "/proc/self/mountinfo"), "the mounts' end")


# Every inode: path, links, and its number, of which a tree over FUSE has the layer's own above these bits. Then xattrs as
# getfattr and getcap see them.
SEEN = r"""
    cd "$0"
    find . -printf '%p %n %i\n' | awk '{ n = $NF % 67108864; sub(/ [0-9]+$/, ""); print $0, n }' | sort
    getfattr -R -h -d -m - .
    getcap -r .
"""


@for_each((name,) for name in ["edge", "redis"])
class BothWays(Case):
    """Each layer looks the same by both ways, to every tool."""

    def shown(self, name: str, way: str) -> dict[str, list]:
        target, store = self.world.lab.directory(f"{way}-{name}"), self.world.lab.directory(f"store-{way}-{name}")
        words = ["--daemonize", "--no-background", "--trees", way, "--store", store]
        run(lacewing(), "mount", *words, self.world.lazy(name), target)
        try:
            seen = {}
            for layer in [*(store / "l").iterdir(), target]:
                stat = os.statvfs(layer)
                # A layer without a byte of data is a complete one from the start, with another name.
                number = layer.name.replace("c", "") if layer != target else "all"
                seen[number] = [run("bash", "-c", SEEN, layer) if layer != target else "", walk(layer, layer=layer != target),
                                stat[:9], os.statvfs(layer).f_namemax]
            return seen
        finally:
            run("umount", target)

    def check(self, name: str) -> None:
        kernel, fuse = self.shown(name, "kernel"), self.shown(name, "fuse")
        self.assertEqual(kernel.keys(), fuse.keys())
        self.assertGreater(len(kernel), 2)
        for layer, (listed, tree, *stat) in kernel.items():
            self.assertEqual(listed.splitlines(), fuse[layer][0].splitlines(), layer)
            self.assert_same(differences(tree, fuse[layer][1], float("inf")))
            self.assertEqual(stat, fuse[layer][2:], f"statfs of {layer}")


class MountRootless(Case):
    """In a user namespace of an ordinary user, who has no capability outside of it."""

    def test_busybox(self):
        home, target = self.world.lab.directory("rootless-home"), self.world.lab.directory("rootless-mount")
        program = home / "lacewing"
        shutil.copy(lacewing(), program)
        for path in (home, target):
            os.chown(path, 1000, 1000)
        # As udev makes it everywhere.
        os.chmod("/dev/fuse", 0o666)
        script = ('"$0" mount --daemonize "$1" "$2" && cd "$2" && find . -mindepth 1 -printf "%P\\n" && '
                  'sha256sum bin/busybox >&2; cd /; umount "$2"')
        user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "-i", f"HOME={home}", f"PATH={os.environ['PATH']}"]
        output = run(*user, "unshare", "-Urm", "bash", "-c", script, program, self.world.lazy("busybox"), target)
        expected = self.world.expected("busybox", 2)
        names = {os.fsdecode(path[1:]) for path in expected if path != b"/"}
        self.assertEqual(names - set(output.splitlines()), set())
        self.assertIn(expected[b"/bin/busybox"].content, output)
        self.assertTrue((home / ".local/share/lacewing/mount").is_dir())


def many(tar: TarWriter, xattrs: bool) -> None:
    """Folders of small files and symlinks, and a few larger files; each with xattrs, if wanted."""
    noise = random.Random(int(xattrs))
    marked = {"xattrs": {"user.mark": b"1", "user.long": bytes(range(200))}} if xattrs else {}
    for folder in range(40):
        tar.add(f"{folder}/", DIRECTORY, **marked)
        for n in range(30):
            tar.add(f"{folder}/file-{n}", data=noise.randbytes(noise.randrange(9000)), **marked)
        tar.add(f"{folder}/large", data=noise.randbytes(500_000), **marked)
        tar.add(f"{folder}/link", SYMLINK, link="file-1")


class Listed:
    """Stands for the TarWriter of `many`; keeps what readers are to find."""

    def __init__(self):
        self.files: dict[str, tuple[int, str]] = {}

    def add(self, name: str, kind: bytes = REGULAR, data: bytes = b"", **_) -> None:
        if kind == REGULAR:
            self.files[f"/{name}"] = (len(data), hashlib.sha256(data).hexdigest())


class Storm(Case):
    """Kills of the worker while others read and walk, on both kinds of connection: nobody notices."""

    def start_walker(self, root: Path, progress: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, WALKER, root, str(LONGEST_S), progress], stdout=subprocess.PIPE, text=True)

    def shown(self, node, xattrs: bool) -> tuple[str, Path]:
        """Pulls an image of one layer; its name and the layer's directory."""
        name = f"storm-{'xattrs' if xattrs else 'plain'}"
        layout = Layout(self.world.lab.directory(name))
        layout.image(name, [layout.layer(lambda tar: many(tar, xattrs))])
        reference = f"{self.world.registry.address}/{name}:1"
        tool.convert(f"oci:{layout.folder}:{name}", reference)
        node.containerd.pull(reference, "lacewing")
        layer = next(layer for layer in node.daemon.status()["layers"] if layer["image"] == reference)
        return name, node.daemon.root / "l" / str(layer["number"])

    def kill_all_along(self, node, walked: list[Path]) -> int:
        """Kills workers, each once, until there were enough and everybody has walked to the end meanwhile."""
        killed, chance, end = set(), random.Random(5), time.monotonic() + LONGEST_S
        enough = lambda: len(killed) >= KILLS and all(file.exists() and file.stat().st_size > 1 for file in walked)
        while not enough() and time.monotonic() < end:
            time.sleep(chance.uniform(*PAUSE_S))
            killed.update(node.daemon.workers())
            node.daemon.kill_worker()
            drop_caches()
        return len(killed)

    def test_kills(self):
        node = self.world.new_node(2, background=False, way="fuse")
        self.assertFalse(node.daemon.by_kernel())
        (plain, plain_root), (marked, marked_root) = self.shown(node, False), self.shown(node, True)
        connections = {os.stat(root).st_dev: root for root in (plain_root, marked_root)}
        self.assertEqual(len(connections), 2, "both layers are on one connection")
        walked, walkers, lists = [], [], {}
        for name, root in ((plain, plain_root), (marked, marked_root)):
            lists[name] = self.world.lab.directory(name) / "files.json"
            content = Listed()
            many(content, name == marked)
            lists[name].write_text(json.dumps(content.files))
            walked.append(lists[name].with_suffix(".walked"))
            walkers.append(self.start_walker(root, walked[-1]))
        try:
            with readers(1, plain_root, lists[plain], LONGEST_S) as one, readers(1, marked_root, lists[marked], LONGEST_S) as other:
                killed = self.kill_all_along(node, walked)
                read = one.results() + other.results()
                for walker in walkers:
                    walker.terminate()
                seen = [json.loads(walker.communicate(timeout=120)[0]) for walker in walkers]
        finally:
            for walker in walkers:
                walker.kill()
                walker.wait()
        print(f"     {killed} kills; files read {[r['files'] for r in read]}, walks {[w['walks'] for w in seen]} "
              f"of {[w['entries'] for w in seen]} entries; {node.daemon.status()['worker_restarts']} restarts", flush=True)
        self.assertEqual([error for part in read + seen for error in part["errors"]], [])
        self.assertGreaterEqual(killed, KILLS)
        self.assertTrue(all(part["files"] > 10 for part in read), read)
        self.assertTrue(all(part["walks"] > 1 for part in seen), seen)
