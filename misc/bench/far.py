"""A registry at a distance: docker-registry behind a relay that holds bytes back in both directions, since not every kernel
has netem. Both contenders read through it."""

import http.client
import os
import random
import shutil
import socket
import time
from pathlib import Path
from statistics import median

from lab.paths import PROJECT, lacewing
from lab.process import Process, run, wait_until
from lab.registry import Registry, free_port

from .contenders import Lacewing, Nydus, Root
from .subject import Subject

READER = Path(os.environ.get("CARGO_TARGET_DIR", PROJECT / "target")) / "release/bench-reader"

# Each way; the round trip that the target names is twice that.
DELAY_US = 100

REPOSITORY = "bench/large"

# About what one random read fetches.
RANGE = 64 << 10


class Far:
    """The registry, with the larger image as Lacewing's and as Nydus's, and the relay in front of it."""

    def __init__(self, subject: Subject):
        self.subject, self.folder = subject, subject.folder / "far"
        shutil.rmtree(self.folder, ignore_errors=True)
        self.registry = Registry(self.folder / "registry")
        self.address = f"127.0.0.1:{free_port()}"
        self.relay = self._relay("relay", self.address, self.registry.address)

    def _relay(self, name: str, address: str, target: str) -> Process:
        return Process(name, [READER, "relay", address, target, DELAY_US], self.folder / f"{name}.log")

    def __enter__(self) -> "Far":
        self.registry.start()
        run(lacewing(), "convert", self.subject.large.source, f"{self.registry.address}/{REPOSITORY}:v1")
        if self.subject.large.nydus:
            for blob in (self.subject.large.nydus / "blobs").iterdir():
                self.registry.push_blob(REPOSITORY, f"sha256:{blob.name}", blob)
        self.relay.start()
        wait_until(lambda: connects(self.address), "the relay")
        return self

    def __exit__(self, *_) -> None:
        self.relay.stop()
        self.registry.stop()

    def root(self, name: str, number: int) -> Root:
        """A root with nothing local."""
        at = self.subject.folder / "fresh" / f"{name}-far-{number}"
        if name == "lacewing":
            return Lacewing(name, at, f"{self.address}/{REPOSITORY}:v1")
        return Nydus(at, self.subject.binaries, self.subject.large.nydus, f"{self.address}/{REPOSITORY}")

    def range_ms(self) -> float:
        """What the registry takes, through the relay, for RANGE bytes at a random place of a large blob, on a connection that
        stays open: median of 100. No reader that keeps nothing beforehand can be faster."""
        layers = self.registry.image_manifest(REPOSITORY, "v1")["layers"]
        blob = max(layers, key=lambda layer: layer["size"])
        connection = http.client.HTTPConnection(self.address)
        taken = []
        for _ in range(100):
            start = random.randrange(blob["size"] - RANGE)
            begin = time.monotonic()
            connection.request("GET", f"/v2/{REPOSITORY}/blobs/{blob['digest']}",
                               headers={"Range": f"bytes={start}-{start + RANGE - 1}"})
            answer = connection.getresponse()
            assert answer.status == 206 and len(answer.read()) == RANGE
            taken.append((time.monotonic() - begin) * 1e3)
        connection.close()
        return median(taken)

    def round_trip_ms(self) -> float:
        """What the relay makes of one byte there and back, with a server that does nothing: median of 100."""
        with socket.create_server(("127.0.0.1", 0)) as echo:
            address = f"127.0.0.1:{free_port()}"
            relay = self._relay("echo", address, f"127.0.0.1:{echo.getsockname()[1]}")
            relay.start()
            wait_until(lambda: connects(address), "the echo's relay")
            echo.accept()[0].close()  # of `connects`
            trips = []
            with socket.create_connection(address.split(":")) as near, echo.accept()[0] as server:
                near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for _ in range(100):
                    start = time.monotonic()
                    near.send(b"x")
                    server.send(server.recv(1))
                    near.recv(1)
                    trips.append((time.monotonic() - start) * 1e3)
            relay.stop()
        return median(trips)


def connects(address: str) -> bool:
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port))).close()
        return True
    except OSError:
        return False
