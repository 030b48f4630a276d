"""Memory does not grow with images."""

import functools
import random
import re
import subprocess
import time
from pathlib import Path

from cases import Case
from lab.containers import CTR, running
from lab.images import write_busybox
from lab.oci import PLAIN, Layout
from lab.paths import lacewing
from lab.process import run
from world import World

MIB = 1 << 20
CONVERT_LIMIT = 300 * MIB
DAEMON_LIMIT = 60 * MIB
IMAGES, FILES = 20, 50_000


class Noise:
    """A file of bytes that hardly compress, made as it is read."""

    def __init__(self):
        self.piece = random.Random(3).randbytes(MIB)
        self.count = 0

    def read(self, length: int) -> bytes:
        self.count += 1
        return self.count.to_bytes(8, "little") + self.piece[8:length]


def resident_peak(pid: int) -> int:
    """The largest resident size of a process so far; 0 once it has ended. (What wait4 tells counts the parent's, too.)"""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0
    return int(found[1]) * 1024 if found else 0


def peak_memory(log: Path, *command) -> int:
    """Runs a command and returns its largest resident size in bytes."""
    with log.open("wb") as out:
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=out)
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident_peak(child.pid))
        time.sleep(0.02)
    assert child.returncode == 0, log.read_text(errors="replace")[-3000:]
    return peak


class Converter(Case):
    def test_layer_of_2_gib(self):
        folder = self.world.lab.directory("large")
        layout = Layout(folder)
        layout.image("large", [layout.layer(lambda tar: tar.add("large", file=Noise(), size=2 << 30), PLAIN)])
        used = peak_memory(folder / "log", lacewing(), "convert", f"oci:{folder}:large", f"oci:{folder}/out:large")
        print(f"     convert of a 2 GiB layer: {used / MIB:.0f} MiB resident", flush=True)
        self.assertLess(used, CONVERT_LIMIT)


@functools.cache
def many_images(world: World) -> list[str]:
    """References of images with many files each."""
    layout = Layout(world.lab.directory("many"))
    bottom = layout.layer(write_busybox)
    references = []
    for image in range(IMAGES):
        def fill(tar, image=image):
            for n in range(FILES):
                tar.add(f"tree-{image}/{n // 500:03}/file-{n:05}", data=b"%d of %d\n" % (n, image))
        layout.image(f"many-{image}", [bottom, layout.layer(fill)])
        target = f"{world.registry.address}/many/{image}:1"
        run(lacewing(), "convert", f"oci:{layout.folder}:many-{image}", target)
        references.append(target)
    return references


class ManyImages(Case):
    def test_daemon(self):
        node, references = self.world.new_node(2, background=False), many_images(self.world)
        for reference in references:
            node.containerd.pull(reference, "lacewing")
        mounted = [layer for layer in node.daemon.status()["layers"] if layer["lazy"]]
        self.assertGreaterEqual(len(mounted), IMAGES)
        # A container of each: all of them are mounted. One is walked.
        names = [f"many-{n}" for n in range(IMAGES)]
        for name, reference in zip(names, references):
            node.containerd.start_container(reference, "lacewing", name, "sleep", "100000")
        with running(node.containerd, CTR, references[7], "lacewing") as container:
            listed = container.exec("sh", "-c", "find /tree-7 -type f | xargs cat | wc -l")
            self.assertEqual(int(listed), FILES)
        used = node.daemon.resident_bytes()
        print(f"     daemon with {IMAGES} images of {FILES} files: {used / MIB:.0f} MiB resident", flush=True)
        self.assertLess(used, DAEMON_LIMIT)
        for name in names:
            node.containerd.remove_container(name)

    def test_walks_over_fuse(self):
        """The daemon that shows layers itself, after a walk over all of them."""
        node = self.world.new_node(2, background=False, way="fuse")
        for reference in many_images(self.world):
            node.containerd.pull(reference, "lacewing")
        layers = [node.daemon.root / "l" / str(layer["number"]) for layer in node.daemon.status()["layers"]]
        start = node.daemon.resident_bytes()
        walked = sum(int(run("sh", "-c", 'find "$0" -type f -size +0 | wc -l', layer)) for layer in layers)
        self.assertGreaterEqual(walked, IMAGES * FILES)
        used = node.daemon.resident_bytes()
        print(f"     walks over {IMAGES} images of {FILES} files, over FUSE: {start / MIB:.0f}, then {used / MIB:.0f} MiB resident", flush=True)
        self.assertLess(used, DAEMON_LIMIT)
