"""Files of a web server for `lacewing get`, and by one command what a file costs its server when many nodes get it:

    python3 -m lab.files --mib 1024 --nodes 8        in misc/; disk: two times the file for each node
"""

import argparse
import contextlib
import hashlib
import json
import random
import statistics
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from .mirror import Mirrors
from .paths import lacewing
from .process import run
from .scratch import Lab


class Files:
    """A web server with ranges and entity tags. `gate` is called before a part is sent, with its first byte's place."""

    def __init__(self, data: bytes):
        self.data, self.tag, self.sent, self.gate, self.ranges = data, '"one"', 0, lambda _: None, True
        self.lock = threading.Lock()
        files = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def do_GET(self):
                files.answer(self)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self.url = f"http://{self.address}/files/model.bin"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m lab.files", description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--nodes", type=int, default=8)
    args = parser.parse_args()
    data = random.Random(3).randbytes(args.mib << 20)
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    with Lab("files") as lab, contextlib.closing(Files(data)) as files:
        mirrors = Mirrors(lab, files.address, args.nodes)
        begun, took, errors = time.monotonic(), [], []

        def one(daemon) -> None:
            try:
                get(daemon, files.url, daemon.config.parent / "got", "--digest", digest)
                took.append(time.monotonic() - begun)
            except Exception as error:  # noqa: BLE001 - told below
                errors.append(str(error)[-300:])

        threads = [threading.Thread(target=one, args=(daemon,)) for daemon in mirrors.daemons]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        uploads = [int(daemon.status()["counters"]["p2p_bytes_to_peers"]) for daemon in mirrors.daemons]
        mirrors.stop()
        print(f"{args.mib} MiB to {args.nodes} nodes: the server sent {files.sent / len(data):.4f} copies; "
              f"median {statistics.median(took or [0]):.1f} s, last {max(took or [0]):.1f} s; "
              f"upload max/mean {max(uploads) / max(statistics.mean(uploads), 1):.2f}; failed: {errors or 'none'}", flush=True)


if __name__ == "__main__":
    main()
