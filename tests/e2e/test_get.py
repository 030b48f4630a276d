"""Files through the piece layer: one copy, whatever is killed, and nothing but what the digest says."""

import contextlib
import hashlib
import json
import random
import signal
import subprocess
import threading
import unittest
from pathlib import Path

from cases import Case
from lab.files import Files, bucket, get
from lab.mirror import Mirrors
from lab.paths import lacewing
from lab.process import CommandFailed, run, wait_until

# Not a multiple of a run.
SIZE = 21_000_123
# As for test_mirror.COPIES: a run that a slow machine has asked for twice is a fifth of this file.
COPIES = 1.5


class Get(Case):
    """Daemons without layers; each file is fetched by all of them."""

    def setUp(self) -> None:
        super().setUp()
        self.data = random.Random(7).randbytes(SIZE)
        self.digest = f"sha256:{hashlib.sha256(self.data).hexdigest()}"

    @contextlib.contextmanager
    def nodes(self, server: str, count: int):
        mirrors = Mirrors(self.world.lab, server, count)
        try:
            yield mirrors
        finally:
            mirrors.stop()

    def all_get(self, mirrors: Mirrors, urls: list[str], *more) -> list[dict]:
        """All nodes at once."""
        told, threads = [None] * len(mirrors.daemons), []

        def one(number: int) -> None:
            told[number] = get(mirrors.daemons[number], urls[number % len(urls)], mirrors.folder / f"got{number}", *more)

        for number in range(len(mirrors.daemons)):
            threads.append(threading.Thread(target=one, args=(number,)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        for number in range(len(mirrors.daemons)):
            self.assertEqual((mirrors.folder / f"got{number}").read_bytes(), self.data)
        return told

    def test_one_copy_and_who_gave_it(self) -> None:
        with contextlib.closing(Files(self.data)) as files, self.nodes(files.address, 4) as mirrors:
            told = self.all_get(mirrors, [files.url], "--digest", self.digest)
            self.assertEqual({answer["digest"] for answer in told}, {self.digest})
            self.assertLess(files.sent, COPIES * SIZE, "the server gave more than its share")
            self.explained(mirrors)
            self.on_top(mirrors)
            # By its server's word alone it is another file, though an equal one.
            self.assertEqual(get(mirrors.daemons[0], files.url, mirrors.folder / "by-tag")["digest"], self.digest)
            # The server is gone; the nodes are not, but what the file is nobody can be asked.
            files.close()
            with self.assertRaises(CommandFailed):
                run(lacewing(), "get", "--address", mirrors.daemons[0].socket, "-o", mirrors.folder / "x",
                    f"http://{files.address}/other", timeout=120)

    def explained(self, mirrors: Mirrors) -> None:
        members = {f"127.0.9.{number}:{mirrors.port}" for number in range(1, 5)}
        sources = []
        for daemon in mirrors.daemons:
            pieces = json.loads(run(lacewing(), "explain", "--json", "--address", daemon.socket, self.digest))
            self.assertEqual(sum(piece["len"] for piece in pieces), SIZE)
            for piece in pieces:
                self.assertTrue(piece["here"])
                self.assertIn(piece["source"], members | {"registry"})
                sources.append((piece["offset"], piece["source"]))
            self.assertIn("came from", run(lacewing(), "explain", "--address", daemon.socket, self.digest))
        # Each piece came from the server to somebody, and from nodes to others.
        for offset in {offset for offset, _ in sources}:
            of_one = {source for at, source in sources if at == offset}
            self.assertIn("registry", of_one)
            self.assertTrue(of_one & members, offset)
        with self.assertRaisesRegex(CommandFailed, "asked for no piece"):
            run(lacewing(), "explain", "--address", mirrors.daemons[0].socket, f"sha256:{'0' * 64}")

    def on_top(self, mirrors: Mirrors) -> None:
        top = json.loads(run(lacewing(), "top", "--once", "--json", "--address", mirrors.daemons[0].socket))
        self.assertEqual(len(top["nodes"]), 4)
        self.assertTrue(all(node["answers"] for node in top["nodes"]), top)
        self.assertLess(top["registry_copies"], COPIES)
        self.assertGreater(top["hit_ratio"], 1 - COPIES / 4)
        self.assertIn("registry copies 1.", run(lacewing(), "top", "--address", mirrors.daemons[1].socket))

    def test_killed_and_gone_on(self) -> None:
        with contextlib.closing(Files(self.data)) as files, self.nodes(files.address, 1) as mirrors:
            daemon, target = mirrors.daemons[0], mirrors.folder / "model.bin"
            # The server gives two runs, and no more for now.
            open_ = threading.Event()
            files.gate = lambda first: first < 8 << 20 or open_.wait(120)
            child = subprocess.Popen([lacewing(), "get", "--address", daemon.socket, "-o", target, files.url],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            try:
                left = lambda: [part.stat().st_size for part in mirrors.folder.glob("model.bin.*.part")]
                wait_until(lambda: sum(left()) >= 4 << 20, "a first run", 60)
            finally:
                child.send_signal(signal.SIGKILL)
                child.wait()
            self.assertFalse(target.exists())
            open_.set()
            told = get(daemon, files.url, target)
            self.assertEqual((told["digest"], target.read_bytes() == self.data), (self.digest, True))
            self.assertGreaterEqual(told["resumed_from"], 4 << 20)
            self.assertEqual(left(), [])
            self.another_version(files, daemon, target)

    def another_version(self, files: Files, daemon, target: Path) -> None:
        """What is left of one version never becomes part of another."""
        name = hashlib.sha256(b"some other version").hexdigest()
        target.with_name(f"model.bin.{name}.part").write_bytes(b"old")
        files.data, files.tag = self.data[::-1], '"two"'
        self.assertEqual(get(daemon, files.url, target)["resumed_from"], 0)
        self.assertEqual(target.read_bytes(), self.data[::-1])

    def test_wrong_digests_and_other_refusals(self) -> None:
        with contextlib.closing(Files(self.data)) as files, self.nodes(files.address, 1) as mirrors:
            daemon, target = mirrors.daemons[0], mirrors.folder / "model.bin"

            def refused(words: str, url: str, *more) -> None:
                with self.assertRaisesRegex(CommandFailed, words):
                    get(daemon, url, target, *more)
                self.assertFalse(target.exists())

            refused("corrupt", files.url, "--digest", f"sha256:{'1' * 64}")
            refused("missing", f"http://{files.address}/nothing")
            refused("not a sha256 digest", files.url, "--digest", "md5:1")
            refused("http:// or https://", "ftp://127.0.0.1/x")
            files.ranges = False
            refused("whole files only", files.url)

    def test_from_s3(self) -> None:
        try:
            import boto3  # noqa: F401
            import moto.server  # noqa: F401
        except ImportError:
            raise unittest.SkipTest("no S3-compatible server: pip install 'moto[s3,server]' boto3") from None
        # Each node has a signature of its own; the file is one.
        sign = bucket(self.world.lab, self.data)
        with self.nodes(sign().split("/")[2], 3) as mirrors:
            told = self.all_get(mirrors, [sign() for _ in range(3)])
            self.assertEqual({answer["digest"] for answer in told}, {self.digest})
            counters = [daemon.status()["counters"] for daemon in mirrors.daemons]
            self.assertLess(sum(int(found["p2p_bytes_from_registry"]) for found in counters), COPIES * SIZE)
