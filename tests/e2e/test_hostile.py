"""Input that is truncated, flipped, oversized or lying: a clear error, in time, and never wrong bytes."""

import hashlib
import json
import random
import shutil
import subprocess
from pathlib import Path

from cases import Case
from lab import tool
from lab.oci import INDEX_TYPE, MANIFEST_TYPE, Layout
from lab.paths import lacewing, trees
from lab.process import CommandFailed, run
from lab.walk import walk

INDEX_ANNOTATION = "containerd.io/snapshot/lacewing/index"
BLOB_TYPE = "application/vnd.lacewing.blob.v1"
FLIPS = 60


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-q", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Converted:
    """A converted image in a layout that can be tampered with."""

    def __init__(self, folder: Path, source: str):
        run(lacewing(), "convert", source, f"oci:{folder}:t")
        self.layout = Layout(folder)
        self.reference = f"oci:{folder}:t"
        self.top = json.loads(self.layout.index.read_text())
        entry = self.top["manifests"][0]
        self.image_index = json.loads(self.layout.read(entry["digest"])) if entry["mediaType"] == INDEX_TYPE else None
        members = self.image_index["manifests"] if self.image_index else [entry]
        self.manifests = {m["digest"]: json.loads(self.layout.read(m["digest"])) for m in members}
        image = next(m for m in members if INDEX_ANNOTATION in json.dumps(self.manifests[m["digest"]]["layers"]))
        self.image_digest = image["digest"]
        self.image = self.manifests[self.image_digest]
        self.last = self.image["layers"][-1]
        self.index_digest = self.last["annotations"][INDEX_ANNOTATION].split(",")[0]

    def blobs(self) -> list[str]:
        """Digests of the data blobs."""
        layers = [layer for manifest in self.manifests.values() for layer in manifest.get("layers", [])]
        return [layer["digest"] for layer in layers if layer["mediaType"] == BLOB_TYPE]

    def plain_index(self) -> bytes:
        stored = self.layout.read(self.index_digest)
        return subprocess.run(["zstd", "-dcq"], input=stored, stdout=subprocess.PIPE, check=True).stdout

    def with_index(self, stored: bytes) -> None:
        """Binds another index, with digests that agree: what a hostile converter would publish."""
        descriptor = self.layout.put(stored, "application/vnd.lacewing.index.v1+zstd")
        text = json.dumps(self.image)
        old = self.last["annotations"][INDEX_ANNOTATION]
        manifest = json.loads(text.replace(old, f"{descriptor['digest']},{descriptor['size']}"))
        written = self.layout.put_json(manifest, MANIFEST_TYPE)
        if self.image_index is None:
            self.layout.tag(written, "t")
            return
        changed = json.loads(json.dumps(self.image_index))
        for member in changed["manifests"]:
            if member["digest"] == self.image_digest:
                member.update(digest=written["digest"], size=written["size"])
        self.layout.tag(self.layout.put_json(changed, INDEX_TYPE), "t")


class Hostile(Case):
    def setUp(self):
        super().setUp()
        self.folder = self.world.lab.directory(f"hostile-{self._testMethodName}")
        self.image = Converted(self.folder / "image", f"oci:{self.world.layout.folder}:busybox")
        self.random = random.Random(11)

    def tamper(self, digest: str, data: bytes) -> None:
        self.image.layout.blob_path(digest).write_bytes(data)

    def mount(self):
        target = self.world.lab.directory("hostile-mount")
        store = self.folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        run(lacewing(), "mount", "--daemonize", "--trees", trees(), "--read-timeout", "3", "--store", store, self.image.reference, target, timeout=60)
        return target

    def mount_never_lies(self) -> str:
        """Mounts, reads all. What is shown must be what the image holds; errors are welcome. Returns what happened."""
        try:
            target = self.mount()
        except CommandFailed as failure:
            self.assertEqual(failure.status, 1, failure.output)
            self.assertNotIn("panicked", failure.output)
            return "refused"
        try:
            expected = self.world.expected("busybox", 2)
            try:
                found = walk(target)
            except OSError:
                return "error at reading"
            wrong = [path for path, entry in found.items()
                     if entry.kind == "file" and path in expected and entry.size == expected[path].size
                     and entry.content != expected[path].content]
            self.assertEqual(wrong, [], "wrong bytes")
            return "shown"
        finally:
            run("umount", target)

    def test_unchanged(self):
        self.assertEqual(self.mount_never_lies(), "shown")
        run(lacewing(), "check", self.image.reference)

    def test_index_flipped(self):
        raw = bytearray(self.image.layout.read(self.image.index_digest))
        raw[len(raw) // 2] ^= 1
        self.tamper(self.image.index_digest, bytes(raw))
        tool.fails("check", self.image.reference)
        tool.fails("inspect", self.image.reference)
        self.assertEqual(self.mount_never_lies(), "refused")

    def test_index_truncated(self):
        self.tamper(self.image.index_digest, self.image.layout.read(self.image.index_digest)[:-1])
        tool.fails("check", self.image.reference)
        self.assertEqual(self.mount_never_lies(), "refused")

    def test_index_flipped_with_right_digest(self):
        plain = self.image.plain_index()
        seen = set()
        for _ in range(FLIPS):
            changed = bytearray(plain)
            changed[self.random.randrange(len(changed))] ^= 1 << self.random.randrange(8)
            self.image.with_index(zstd(bytes(changed)))
            seen.add(self.mount_never_lies())
            tool_check(self, self.image.reference)
        self.assertIn("refused", seen)

    def test_index_truncated_with_right_digest(self):
        plain = self.image.plain_index()
        for length in (0, 1, 1023, 1024, 4095, 4096, len(plain) // 2, len(plain) - 1):
            self.image.with_index(zstd(plain[:length]))
            self.assertEqual(self.mount_never_lies(), "refused")
            tool.fails("check", self.image.reference)

    def test_index_that_unpacks_to_too_much(self):
        bomb = subprocess.run(["bash", "-c", "head -c 3G /dev/zero | zstd -q -c"], stdout=subprocess.PIPE, check=True)
        self.image.with_index(bomb.stdout)
        self.assertEqual(self.mount_never_lies(), "refused")
        tool.fails("check", self.image.reference)

    def test_index_of_noise(self):
        self.image.with_index(self.random.randbytes(5000))
        self.assertEqual(self.mount_never_lies(), "refused")

    def test_blob_flipped(self):
        (digest,) = self.image.blobs()
        raw = bytearray(self.image.layout.read(digest))
        for at in range(100, len(raw), len(raw) // 20):
            raw[at] ^= 0x40
        self.tamper(digest, bytes(raw))
        self.assertIn(self.mount_never_lies(), ("refused", "error at reading"))
        tool.fails("check", self.image.reference)

    def test_blob_truncated(self):
        (digest,) = self.image.blobs()
        self.tamper(digest, self.image.layout.read(digest)[:-4096])
        self.assertIn(self.mount_never_lies(), ("refused", "error at reading"))
        tool.fails("check", self.image.reference)

    def test_blob_missing(self):
        (digest,) = self.image.blobs()
        self.image.layout.blob_path(digest).unlink()
        self.assertIn(self.mount_never_lies(), ("refused", "error at reading"))
        tool.fails("check", self.image.reference)

    def test_manifest_flipped(self):
        digest = self.image.image_digest
        self.tamper(digest, self.image.layout.read(digest).replace(b"sha256", b"sha257", 1))
        tool.fails("check", self.image.reference)
        self.assertEqual(self.mount_never_lies(), "refused")

    def test_manifest_of_nonsense(self):
        for text in (b"", b"{}", b"[" * 100_000, b'{"layers":' + b"9" * 1000 + b"}", b"\xff\xfe"):
            digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
            self.image.layout.put(text, MANIFEST_TYPE)
            self.image.layout.tag({"mediaType": MANIFEST_TYPE, "digest": digest, "size": len(text)}, "t")
            tool.fails("check", self.image.reference)
            tool.fails("convert", self.image.reference, f"oci:{self.folder}/out:t")

    def test_layers_of_nonsense(self):
        """Tars and gzip streams that break off or make no sense."""
        layout = Layout(self.folder / "tars")
        good = layout.layer(lambda tar: tar.add("file", data=self.random.randbytes(50_000)))
        raw = layout.read(good.digest)
        cases = [raw[:len(raw) // 2], raw[:9], b"\x1f\x8b" + self.random.randbytes(500), self.random.randbytes(5000)]
        flipped = bytearray(raw)
        flipped[len(raw) // 2] ^= 1
        cases.append(bytes(flipped))
        for number, data in enumerate(cases):
            layer = layout.put(data, good.media_type)
            lying = good.__class__(good.media_type, layer["digest"], layer["size"], good.diff_id, good.plain_size)
            layout.image(f"bad-{number}", [lying])
            tool.fails("convert", f"oci:{layout.folder}:bad-{number}", f"oci:{self.folder}/out:t")

    def test_layer_with_wrong_diff_id(self):
        layout = Layout(self.folder / "diff")
        good = layout.layer(lambda tar: tar.add("file", data=b"x"))
        lying = good.__class__(good.media_type, good.digest, good.size, f"sha256:{'0' * 64}", good.plain_size)
        layout.image("t", [lying])
        tool.fails("convert", f"oci:{layout.folder}:t", f"oci:{self.folder}/out:t")


def tool_check(case: Case, reference: str) -> None:
    """`check` either agrees or reports; it never panics or hangs."""
    try:
        run(lacewing(), "check", reference, timeout=60)
    except CommandFailed as failure:
        case.assertEqual(failure.status, 1, failure.output)
        case.assertNotIn("panicked", failure.output)
