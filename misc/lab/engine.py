"""dockerd of the distribution with its own image store, spoken to by its API."""

import json
import shutil
from pathlib import Path
from urllib.parse import quote

from .process import Process, wait_until
from .web import Local


def installed() -> bool:
    return shutil.which("dockerd") is not None


class Engine:
    """An engine with private folders and no networks, with a containerd of its own."""

    def __init__(self, folder: Path, mirror: str):
        folder.mkdir(parents=True)
        self.socket = folder / "sock"
        (folder / "config.json").write_text(json.dumps({"registry-mirrors": [f"http://{mirror}"]}))
        command = ["dockerd", "--config-file", folder / "config.json", "--data-root", folder / "root", "--exec-root",
                   folder / "run", "--pidfile", folder / "pid", "-H", f"unix://{self.socket}", "--bridge", "none",
                   "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"]
        self.process = Process("dockerd", command, folder / "log")

    def start(self) -> None:
        self.process.start()
        wait_until(self.ready, "dockerd", 60)

    def ready(self) -> bool:
        if not self.process.alive():
            raise RuntimeError(f"dockerd ended\n{self.process.tail()}")
        try:
            return self.request("GET", "/_ping")[0] == 200
        except OSError:
            return False

    def request(self, method: str, path: str) -> tuple[int, bytes]:
        connection = Local(self.socket)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def pull(self, image: str, tag: str) -> str:
        """Pulls, and returns the image's id: the digest of its config."""
        status, told = self.request("POST", f"/images/create?fromImage={quote(image)}&tag={quote(tag)}")
        if status != 200 or b'"error"' in told:
            raise RuntimeError(f"pull of {image}:{tag}: {status} {told[-1000:].decode(errors='replace')}")
        status, told = self.request("GET", f"/images/{quote(f'{image}:{tag}')}/json")
        return json.loads(told)["Id"]

    def stop(self) -> None:
        self.process.stop()
