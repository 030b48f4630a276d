"""Docker Engine with the containerd image store, on a node's containerd; spoken to over its socket, without docker's client."""

import base64
import io
import json
import os
import tarfile
from pathlib import Path
from urllib.parse import quote

from .nodes import Containerd
from .paths import CACHE, PROJECT
from .process import Process, run, wait_until
from .web import Local

# The engine's namespace in containerd.
NAMESPACE = "moby"
NO_CREDENTIALS = base64.b64encode(b"{}").decode()


def dockerd() -> Path:
    """The engine's program (28 or later), fetched at the first call."""
    target = CACHE / "docker"
    target.mkdir(parents=True, exist_ok=True)
    run(PROJECT / "misc/lab/containerd2", target, "docker.io", "usr/sbin/dockerd")
    return target / "usr/sbin/dockerd"


class Docker:
    """An engine whose images and containers are lacewing's snapshots."""

    def __init__(self, folder: Path, containerd: Containerd):
        self.socket = folder / "sock"
        config = {
            # What an operator writes; the rest keeps it apart from others on the machine.
            "features": {"containerd-snapshotter": True}, "storage-driver": "lacewing", "containerd": str(containerd.socket),
            "bridge": "none", "iptables": False, "ip6tables": False, "hosts": [f"unix://{self.socket}"],
            "data-root": str(folder / "data"), "exec-root": str(folder / "exec"), "pidfile": str(folder / "pid"),
        }
        (folder / "daemon.json").write_text(json.dumps(config))
        program = dockerd()
        env = {"PATH": f"{program.parent}:{program.parents[1] / 'bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"}
        self.process = Process("dockerd", [program, "--config-file", folder / "daemon.json"], folder / "log", env)

    def start(self) -> None:
        self.process.start()
        wait_until(self.ready, "dockerd", 60)

    def ready(self) -> bool:
        if not self.process.alive():
            raise RuntimeError(f"dockerd ended\n{self.process.tail()}")
        try:
            return self.call("GET", "/_ping") == b"OK"
        except OSError:
            return False

    def stop(self) -> None:
        self.process.stop()

    def call(self, method: str, path: str, body: dict | bytes | None = None) -> bytes:
        """One request of the engine's API; RuntimeError with its answer if it refuses."""
        connection = Local(self.socket)
        headers = {"Content-Type": "application/json", "X-Registry-Auth": NO_CREDENTIALS}
        if isinstance(body, bytes):
            headers["Content-Type"] = "application/x-tar"
        elif body is not None:
            body = json.dumps(body).encode()
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        # Pulls and pushes answer 200 at their start, and tell errors later.
        if answer.status >= 400 or b'"errorDetail"' in content[-4096:]:
            raise RuntimeError(f"{method} {path}: {answer.status} {content[-1000:].decode(errors='replace')}")
        return content

    def pull(self, image: str) -> None:
        name, tag = image.rsplit(":", 1)
        self.call("POST", f"/images/create?fromImage={name}&tag={tag}")

    def push(self, image: str) -> None:
        name, tag = image.rsplit(":", 1)
        self.call("POST", f"/images/{name}/push?tag={tag}")

    def build(self, dockerfile: str, tag: str, builder: int) -> str:
        """Builds an image, by the classic builder (1) or by BuildKit (2), and returns what the builder told."""
        context = io.BytesIO()
        with tarfile.open(fileobj=context, mode="w") as tar:
            entry = tarfile.TarInfo("Dockerfile")
            entry.size = len(dockerfile.encode())
            tar.addfile(entry, io.BytesIO(dockerfile.encode()))
        path = f"/build?version={builder}&t={quote(tag)}&networkmode=none&rm=1"
        return self.call("POST", path, context.getvalue()).decode(errors="replace")

    def run(self, image: str, name: str, *command: str) -> str:
        """Runs a container to its end and returns its output; the container stays."""
        self.call("POST", f"/containers/create?name={name}",
                  {"Image": image, "Cmd": list(command), "HostConfig": {"NetworkMode": "host"}})
        self.call("POST", f"/containers/{name}/start")
        status = json.loads(self.call("POST", f"/containers/{name}/wait"))["StatusCode"]
        output = self.call("GET", f"/containers/{name}/logs?stdout=1&stderr=1").decode(errors="replace")
        if status:
            raise RuntimeError(f"{name}: exit status {status}\n{output}")
        return output

    def remove(self, name: str) -> None:
        self.call("DELETE", f"/containers/{name}?force=1")
