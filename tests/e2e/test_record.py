"""A start is recorded on a node, the image converted with the record: the next node has what it reads before it asks."""

import json
import time

from cases import Case
from lab import tool
from lab.paths import lacewing
from lab.process import run, wait_until


def elsewhen() -> str:
    """Configuration by which nothing but what starts read is fetched in the background, for the next hours."""
    hour = (time.gmtime().tm_hour + 12) % 24
    return f'\n[background]\nwindow = "{hour:02}:00-{hour:02}:01"\n'


class Recorded(Case):
    def test_the_next_start_waits_for_less(self):
        image, folder = self.world.images["redis"], self.world.lab.directory("record")
        lazy, better, file = self.world.lazy("redis"), f"{self.world.registry.address}/lazy/redis:better", folder / "redis.record"

        first = self.world.new_node(2, extra=elsewhen())
        node = first.containerd
        node.pull(lazy, "lacewing")
        start = [node.ctr_program, "-a", node.socket, "run", "--rm", "--snapshotter", "lacewing", "--runc-root", node.folder / "runc"]
        run(lacewing(), "record", "--address", first.daemon.socket, lazy, file, "--", *start, lazy, "start", *image.ready)
        paths = {json.loads(line)["path"] for line in file.read_text().splitlines()}
        self.assertTrue(any("/libc.so" in path for path in paths), paths)
        misses = first.daemon.status()["counters"]["misses"]

        report = tool.convert(self.world.plain("redis"), better, "--record", str(file))
        self.assertEqual(report["record_files"], report["record_files_found"])
        run(lacewing(), "check", better)

        second = self.world.new_node(2, background=False)
        second.containerd.pull(better, "lacewing")
        inspected = json.loads(run(lacewing(), "inspect", "--json", better))
        listed = sum(layer["prefetch_bytes"] for part in inspected["images"] for layer in part["layers"])
        wait_until(lambda: second.daemon.status()["counters"]["source_bytes"] >= listed, f"{listed} bytes that the record lists")
        self.assertEqual(second.daemon.status()["counters"]["reads"], 0, "nothing was read yet")
        self.assertIn("ready", second.containerd.run(better, "lacewing", "start", *image.ready))
        counters = second.daemon.status()["counters"]
        self.assertLess(2 * counters["misses"], misses, counters)

    def test_what_is_no_record_is_refused_and_says_which_line(self):
        folder = self.world.lab.directory("no-record")
        (folder / "file").write_text('{"path":"/a"}\n/usr/bin/redis-server\n')
        failure = tool.fails("convert", "--record", folder / "file", self.world.plain("redis"), f"oci:{folder}/out:x")
        self.assertIn("line 2", failure.output)
        failure = tool.fails("record", "--address", folder / "none", "image", folder / "out", "--", "true")
        self.assertIn("no daemon answers", failure.output)
