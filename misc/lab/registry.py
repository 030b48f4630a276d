"""A private registry on a loopback address."""

import http.client
import json
import re
import socket
from pathlib import Path

from .paths import PROJECT
from .process import Process, wait_until

TEMPLATES = PROJECT / "misc/lab/templates"


def fill(template: str, target: Path, **values: object) -> Path:
    """Writes a template with each @NAME@ replaced."""
    text = (TEMPLATES / template).read_text()
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    target.write_text(text)
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Registry:
    """`docker-registry` with its data below the lab's folder; its access log tells what was fetched."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.address = f"127.0.0.1:{free_port()}"
        config = fill("registry.yml", folder / "config.yml", DIR=folder, ADDRESS=self.address, QUIET="false")
        self.process = Process("registry", ["docker-registry", "serve", config], folder / "log")

    def start(self) -> None:
        self.process.start()
        wait_until(self._answers, f"registry {self.address}")

    def stop(self) -> None:
        self.process.stop()

    def _answers(self) -> bool:
        try:
            return self.request("GET", "/v2/")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str, body=None, headers: dict | None = None) -> tuple[int, dict, bytes]:
        """One HTTP request: status, headers (names in lower case), body."""
        connection = http.client.HTTPConnection(self.address, timeout=600)
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def manifest(self, repository: str, reference: str) -> dict:
        """A manifest or image index, whatever its type."""
        kinds = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json"
        status, _, body = self.request("GET", f"/v2/{repository}/manifests/{reference}", headers={"Accept": kinds})
        if status != 200:
            raise OSError(f"{repository}:{reference}: registry answers {status}")
        return json.loads(body)

    def image_manifest(self, repository: str, reference: str) -> dict:
        """The manifest of the image for this machine, also behind an image index."""
        found = self.manifest(repository, reference)
        for member in found.get("manifests", []):
            if member.get("platform", {}).get("architecture") == "amd64":
                return self.manifest(repository, member["digest"])
        return found

    def blob(self, repository: str, digest: str) -> bytes:
        status, _, body = self.request("GET", f"/v2/{repository}/blobs/{digest}")
        if status != 200:
            raise OSError(f"{repository}@{digest}: registry answers {status}")
        return body

    def blob_gets(self, digest: str) -> int:
        """How often a blob was asked for by GET since the start, by the access log."""
        pattern = re.compile(rf'"GET /v2/\S+/blobs/{re.escape(digest)} ')
        return len(pattern.findall(self.process.log.read_text(errors="replace")))

    def push(self, layout, name: str, repository: str, tag: str) -> str:
        """Copies an image of an OCI layout here; what is there already is not sent again."""
        descriptor = layout.tagged(name)
        self._push_manifest(layout, descriptor, repository, tag)
        return f"{self.address}/{repository}:{tag}"

    def _push_manifest(self, layout, descriptor: dict, repository: str, reference: str) -> None:
        raw = layout.read(descriptor["digest"])
        manifest = json.loads(raw)
        for member in manifest.get("manifests", []):
            self._push_manifest(layout, member, repository, member["digest"])
        for blob in [manifest["config"], *manifest["layers"]] if "config" in manifest else []:
            self.push_blob(repository, blob["digest"], layout.blob_path(blob["digest"]))
        path = f"/v2/{repository}/manifests/{reference}"
        status, _, answer = self.request("PUT", path, raw, {"Content-Type": descriptor["mediaType"]})
        if status != 201:
            raise OSError(f"{path}: registry answers {status} {answer!r}")

    def push_blob(self, repository: str, digest: str, file: Path) -> None:
        if self.request("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return
        status, headers, answer = self.request("POST", f"/v2/{repository}/blobs/uploads/")
        if status != 202:
            raise OSError(f"upload to {repository}: registry answers {status} {answer!r}")
        location = headers["location"]
        location = location[location.index("/v2/"):]
        location += f"{'&' if '?' in location else '?'}digest={digest}"
        sizes = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
        with file.open("rb") as body:
            status, _, answer = self.request("PUT", location, body, sizes)
        if status != 201:
            raise OSError(f"upload of {digest}: registry answers {status} {answer!r}")
