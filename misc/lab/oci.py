"""OCI image layouts: layers, configs, manifests, tags."""

import hashlib
import json
import subprocess
import tempfile
import threading
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from .rawtar import TarWriter

GZIP, ZSTD, PLAIN = "+gzip", "+zstd", ""
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Layer:
    """A layer blob of a layout."""

    media_type: str
    digest: str
    size: int
    diff_id: str
    plain_size: int

    def descriptor(self) -> dict:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


class LayerSink:
    """Takes a tar's bytes, writes them compressed, and knows both digests at the end."""

    def __init__(self, file: Path, compression: str, member_bytes: int | None):
        self.file, self.compression, self.member_bytes = file, compression, member_bytes
        self.out = file.open("wb")
        self.diff = hashlib.sha256()
        self.plain_size = self.in_member = 0
        self.deflate = self._new_member()

    @staticmethod
    def _new_member():
        return zlib.compressobj(6, zlib.DEFLATED, 31)

    def write(self, data: bytes) -> None:
        self.diff.update(data)
        self.plain_size += len(data)
        if self.compression != GZIP:
            self.out.write(data)
            return
        self.out.write(self.deflate.compress(data))
        self.in_member += len(data)
        if self.member_bytes and self.in_member >= self.member_bytes:
            self.out.write(self.deflate.flush())
            self.deflate, self.in_member = self._new_member(), 0

    def finish(self) -> None:
        if self.compression == GZIP:
            self.out.write(self.deflate.flush())
        self.out.close()
        if self.compression == ZSTD:
            packed = self.file.with_suffix(".zst")
            subprocess.run(["zstd", "-q", "-3", "-T1", "-f", self.file, "-o", packed], check=True)
            packed.replace(self.file)


class Layout:
    """An OCI layout in a folder; several images share its blobs."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.blobs = folder / "blobs/sha256"
        self.blobs.mkdir(parents=True, exist_ok=True)
        (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self.index = folder / "index.json"
        self.index_lock = threading.Lock()
        if not self.index.exists():
            self.index.write_text(json.dumps({"schemaVersion": 2, "manifests": []}))

    def blob_path(self, digest: str) -> Path:
        return self.blobs / digest.removeprefix("sha256:")

    def read(self, digest: str) -> bytes:
        return self.blob_path(digest).read_bytes()

    def put(self, data: bytes, media_type: str) -> dict:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob_path(digest).write_bytes(data)
        return {"mediaType": media_type, "digest": digest, "size": len(data)}

    def put_json(self, value: dict, media_type: str) -> dict:
        return self.put(json.dumps(value, sort_keys=True).encode(), media_type)

    def layer(self, fill: Callable[[TarWriter], object], compression: str = GZIP, member_bytes: int | None = None,
              end: bool = True) -> Layer:
        """Writes a layer. `member_bytes`: begin a new gzip member after that many; `end`: write the tar's end blocks."""
        file = Path(tempfile.mktemp(dir=self.folder, prefix="layer-"))
        sink = LayerSink(file, compression, member_bytes)
        tar = TarWriter(sink.write)
        fill(tar)
        if end:
            tar.end()
        sink.finish()
        with file.open("rb") as stored:
            digest = f"sha256:{hashlib.file_digest(stored, 'sha256').hexdigest()}"
        size = file.stat().st_size
        file.replace(self.blob_path(digest))
        return Layer(LAYER_TYPE + compression, digest, size, f"sha256:{sink.diff.hexdigest()}", sink.plain_size)

    def image(self, name: str, layers: list[Layer], config: dict | None = None, architecture: str = "amd64") -> dict:
        """Writes config and manifest, and tags them."""
        written = self.put_json({
            "architecture": architecture, "os": "linux", "created": "2024-06-01T00:00:00Z",
            "config": {"Env": [PATH], "Cmd": ["/bin/sh"]} | (config or {}),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]},
            "history": [{"created": "2024-06-01T00:00:00Z", "created_by": "lab"} for _ in layers],
        }, CONFIG_TYPE)
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST_TYPE, "config": written,
                    "layers": [layer.descriptor() for layer in layers]}
        descriptor = self.put_json(manifest, MANIFEST_TYPE)
        self.tag(descriptor, name)
        return descriptor

    def image_index(self, name: str, members: list[tuple[dict, str]]) -> dict:
        """Writes an image index over (manifest descriptor, architecture) and tags it."""
        listed = [m | {"platform": {"os": "linux", "architecture": arch}} for m, arch in members]
        descriptor = self.put_json({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": listed}, INDEX_TYPE)
        self.tag(descriptor, name)
        return descriptor

    def tag(self, descriptor: dict, name: str) -> None:
        tagged = descriptor | {"annotations": {"org.opencontainers.image.ref.name": name}}
        with self.index_lock:
            top = json.loads(self.index.read_text())
            others = [m for m in top["manifests"] if m["annotations"]["org.opencontainers.image.ref.name"] != name]
            self.index.write_text(json.dumps(top | {"manifests": [*others, tagged]}, indent=1, sort_keys=True))

    def tagged(self, name: str) -> dict:
        for manifest in json.loads(self.index.read_text())["manifests"]:
            if manifest["annotations"]["org.opencontainers.image.ref.name"] == name:
                return {k: v for k, v in manifest.items() if k != "annotations"}
        raise KeyError(f"{self.folder} has no {name}")
