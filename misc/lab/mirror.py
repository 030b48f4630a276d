"""Nodes that pull ordinary images through their daemon's mirror, and a door before a registry that counts, lies and breaks off."""

import http.client
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path

from .nodes import Containerd, Daemon
from .process import wait_until
from .registry import Registry, free_port
from .web import Handler, Server

HOP = {"connection", "host", "transfer-encoding", "content-length"}
PART = 1 << 16


class Door(Server):
    """A registry's front: counts the bytes of blobs that go out. `spoil` says what becomes of a blob's body: a function of
    its bytes; what it returns is sent under the length of the whole."""

    def __init__(self, registry: Registry):
        self.blob_bytes, self.spoil, self.closed, self.lock = 0, None, False, threading.Lock()
        door = self

        class Answers(Handler):
            def do_GET(self):
                door.forward(self, registry)

            do_HEAD = do_GET

        super().__init__(Answers)

    def close(self) -> None:
        """Nobody is answered from now on, on connections that stand neither."""
        self.closed = True
        super().close()

    def forward(self, request: BaseHTTPRequestHandler, registry: Registry) -> None:
        if self.closed:
            request.close_connection = True
            return
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP}
        connection = http.client.HTTPConnection(registry.address, timeout=60)
        try:
            connection.request(request.command, request.path, headers=headers)
            answer = connection.getresponse()
            body = answer.read()
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in HOP:
                    request.send_header(name, value)
            request.send_header("Content-Length", answer.getheader("Content-Length", str(len(body))))
            request.end_headers()
            blob = "/blobs/" in request.path and request.command == "GET"
            sent = self.spoil(body) if blob and self.spoil else body
            request.close_connection = len(sent) != len(body)
            for at in range(0, len(sent), PART):
                request.wfile.write(sent[at:at + PART])
                with self.lock:
                    self.blob_bytes += len(sent[at:at + PART]) if blob else 0
        except OSError:
            # Whoever was asked for a second time is told that it is not needed any more.
            request.close_connection = True
        finally:
            connection.close()


class Mirrors:
    """Daemons of one piece layer, each with a mirror, on loopback addresses of their own."""

    def __init__(self, lab, registry: str, count: int, extra: str = ""):
        self.registry, self.port = registry, free_port()
        self.folder = lab.directory(f"mirrors{self.port}")
        (self.folder / "secret").write_text("a secret for tests, which is long enough\n")
        certs = self.folder / "certs" / registry
        certs.mkdir(parents=True)
        (certs / "hosts.toml").write_text(f'server = "http://{registry}"\n')
        self.daemons = [self._daemon(lab, number, extra) for number in range(1, count + 1)]
        wait_until(lambda: all(self.members(daemon) == count - 1 for daemon in self.daemons), "the swarm", 120, 0.2)

    def _daemon(self, lab, number: int, extra: str) -> Daemon:
        mirror = f"127.0.0.1:{free_port()}"
        # A loaded machine answers late; nobody is to be taken for dead because of that.
        config = (f'[containerd]\naddress = ""\n\n[registry]\nhosts_dir = "{self.folder}/certs"\n{extra}\n'
                  f'[mirror]\nlisten = "{mirror}"\nregistry = "{self.registry}"\n\n'
                  f'[p2p]\nseeds = ["127.0.9.1:{self.port}"]\nlisten = "127.0.9.{number}:{self.port}"\n'
                  f'secret_file = "{self.folder}/secret"\nregistries = ["{self.registry}"]\nack_timeout_ms = 2000\n')
        daemon = Daemon(self.folder / f"d{number}", config)
        daemon.mirror = mirror
        lab.parts.append(daemon)
        daemon.start()
        return daemon

    @staticmethod
    def members(daemon: Daemon) -> int:
        return int(daemon.status()["counters"].get("p2p_members", -1))

    def hosts(self, daemon: Daemon) -> Path:
        """A `certs.d` for a containerd beside a daemon."""
        folder = daemon.config.parent / "certs"
        place = folder / self.registry
        place.mkdir(parents=True, exist_ok=True)
        (place / "hosts.toml").write_text(
            f'server = "http://{self.registry}"\n\n[host."http://{daemon.mirror}"]\ncapabilities = ["pull", "resolve"]\n')
        return folder

    def stop(self) -> None:
        for daemon in self.daemons:
            daemon.stop()


def pull_at_once(mirrors: Mirrors, nodes: list[Containerd], image: str) -> list[float]:
    """Each containerd pulls by the mirror of its daemon, all at once; returns the seconds that each took, or raises what went
    wrong first."""
    hosts = [mirrors.hosts(daemon) for daemon in mirrors.daemons]
    begun, took, failures = time.monotonic(), [], []

    def pull(node: Containerd, folder: Path) -> None:
        try:
            node.ctr("image", "pull", "--hosts-dir", folder, "--snapshotter", "overlayfs", image)
            took.append(time.monotonic() - begun)
        except Exception as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=pull, args=pair) for pair in zip(nodes, hosts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return took


def request(daemon: Daemon, method: str, path: str, headers: dict | None = None) -> tuple[int, dict, bytes]:
    """One request to a daemon's mirror: status, headers (names in lower case), body. IncompleteRead if it is cut off."""
    connection = http.client.HTTPConnection(daemon.mirror, timeout=120)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()
