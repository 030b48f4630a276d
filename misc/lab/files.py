"""Files of a web server for `lacewing get`, and what a file costs its server when many nodes get it."""

import contextlib
import hashlib
import itertools
import json
import random
import statistics
import sys
import threading
import time
import urllib.request
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from .mirror import Mirrors
from .paths import lacewing
from .process import Process, run, wait_until
from .registry import free_port
from .scratch import Lab
from .web import Handler, Server


class Files(Server):
    """A web server with ranges and entity tags. `gate` is called before a part is sent, with its first byte's place."""

    def __init__(self, data: bytes):
        self.data, self.tag, self.sent, self.gate, self.ranges = data, '"one"', 0, lambda _: None, True
        self.lock = threading.Lock()
        files = self

        class Answers(Handler):
            def do_GET(self):
                files.answer(self)

        super().__init__(Answers)
        self.url = f"http://{self.address}/files/model.bin"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        data, asked = self.data, request.headers.get("Range")
        status, part, headers = 200, data, {"ETag": self.tag}
        if not request.path.startswith("/files/"):
            status, part = 404, b""
        elif asked and self.ranges:
            first, last = map(int, asked.removeprefix("bytes=").split("-"))
            part = data[first:last + 1]
            status, headers["Content-Range"] = 206, f"bytes {first}-{first + len(part) - 1}/{len(data)}"
            self.gate(first)
        with self.lock:
            self.sent += len(part)
        with contextlib.suppress(OSError):
            request.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(part))}.items():
                request.send_header(name, value)
            request.end_headers()
            request.wfile.write(part)


def get(daemon, url: str, target: Path, *more) -> dict:
    """Gets a file by a daemon, and returns what the command told."""
    words = [lacewing(), "get", "--json", "--address", daemon.socket, "-o", target, *more, url]
    return json.loads(run(*words, timeout=3600))


def bucket(lab, data: bytes):
    """Starts an S3-compatible server with the file in it; returns what signs its address."""
    import boto3

    port, folder = free_port(), lab.directory("s3")
    server = Process("s3", [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], folder / "log")
    lab.parts.append(Server(server))
    server.start()
    endpoint = f"http://127.0.0.1:{port}"
    wait_until(lambda: answers(f"{endpoint}/moto-api/"), "the S3 server", 60)
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1",
                          aws_access_key_id="lab", aws_secret_access_key="lab-secret")
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="llm/model.bin", Body=data)
    signatures = itertools.count(600)
    return lambda: client.generate_presigned_url(
        "get_object", Params={"Bucket": "models", "Key": "llm/model.bin"}, ExpiresIn=next(signatures))


@dataclass(frozen=True)
class Server:
    """A part of a lab."""

    process: Process


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


@dataclass(frozen=True)
class Got:
    """What it took all nodes to get a file: bytes of the server over those of the file, seconds of each, most upload over mean."""

    copies: float
    took: list[float]
    upload_ratio: float
    errors: list[str]


def measure(mib: int, nodes: int, s3: bool) -> Got:
    """Nodes get one file at once, from a web server or from an S3-compatible one with a signature of its own for each node.
    Needs disk for two times the file for each node."""
    chance = random.Random(3)
    data = b"".join(chance.randbytes(1 << 20) for _ in range(mib))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with Lab("files") as lab, contextlib.closing(Files(data)) as files:
        sign = bucket(lab, data) if s3 else lambda: files.url
        mirrors = Mirrors(lab, sign().split("/")[2], nodes)
        begun, took, errors = time.monotonic(), [], []

        def one(daemon) -> None:
            try:
                get(daemon, sign(), daemon.config.parent / "got", "--digest", digest)
                took.append(time.monotonic() - begun)
            except Exception as error:  # noqa: BLE001 - told in what is returned
                errors.append(str(error)[-300:])

        threads = [threading.Thread(target=one, args=(daemon,)) for daemon in mirrors.daemons]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        counters = [daemon.status()["counters"] for daemon in mirrors.daemons]
        uploads = [int(found["p2p_bytes_to_peers"]) for found in counters]
        sent = sum(int(found["p2p_bytes_from_registry"]) for found in counters) if s3 else files.sent
        mirrors.stop()
        return Got(sent / len(data), took, max(uploads) / max(statistics.mean(uploads), 1), errors)
