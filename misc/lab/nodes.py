"""containerd of either generation, and `lacewing daemon` beside it."""

import itertools
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

from .paths import CACHE, PROJECT, lacewing, trees
from .process import CommandFailed, Process, ended, mounts_below, run, succeeds, unmount_below, wait_until
from .registry import Registry, fill

# containerd uses faster programs for gzip if it finds some; runs must be alike on every machine.
CONTAINERD_ENV = {"CONTAINERD_DISABLE_PIGZ": "1", "CONTAINERD_DISABLE_IGZIP": "1"}


def containerd2_bin() -> Path:
    """The folder of containerd 2.x's programs, fetched at the first call."""
    target = CACHE / "containerd2"
    target.mkdir(parents=True, exist_ok=True)
    run(PROJECT / "misc/lab/containerd2", target)
    return target / "usr/bin"


def client_program() -> Path:
    """The Go client, built if its sources are newer."""
    sources = PROJECT / "misc/lab/client"
    program = CACHE / "client"
    newest = max(file.stat().st_mtime for file in sources.iterdir())
    if not program.exists() or program.stat().st_mtime < newest:
        CACHE.mkdir(parents=True, exist_ok=True)
        run("go", "build", "-o", program, ".", cwd=sources, env={"GO111MODULE": "off", "GOPATH": "/usr/share/gocode"})
    return program


def daemon_config(containerd: Path | None, read_timeout_s: int, background: bool, way: str | None = None) -> str:
    """The lab's lines of the daemon's configuration; without `containerd`, nobody's content store is asked.
    `way`: who shows layers, whatever $LACEWING_TREES says."""
    address = containerd or ""
    return (f'[containerd]\naddress = "{address}"\n\n'
            f'[lazy]\ntrees = "{way or trees()}"\nread_timeout_s = {read_timeout_s}\nbackground = {str(background).lower()}\n')


class Daemon:
    """`lacewing daemon` with its own root and socket."""

    def __init__(self, folder: Path, config: str):
        folder.mkdir(parents=True)
        self.root, self.socket, self.http = folder / "root", folder / "sock", folder / "http"
        self.config = folder / "config.toml"
        self.config.write_text(f'{config}\n[http]\nlisten = "unix:{self.http}"\n')
        command = [lacewing(), "daemon", "--root", self.root, "--address", self.socket, "--config", self.config]
        self.process = Process("lacewing", command, folder / "log", env={"LACEWING_LOG": "debug"})

    def start(self) -> None:
        self.process.start()
        wait_until(self.ready, f"{self.socket}\n{self.process.tail()}")

    def ready(self) -> bool:
        if not self.process.alive():
            raise RuntimeError(f"lacewing daemon ended with {self.process.child.returncode}\n{self.process.tail()}")
        return self.socket.exists() and succeeds(lacewing(), "status", "--address", self.socket, timeout=10)

    def stop(self) -> None:
        self.process.stop()

    def workers(self) -> list[int]:
        """The supervisor's child processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def kill_worker(self) -> int:
        """SIGKILL for the worker; the number of processes hit."""
        hit = 0
        for pid in self.workers():
            try:
                os.kill(pid, signal.SIGKILL)
                hit += 1
            except ProcessLookupError:
                pass
        return hit

    def kill_all(self) -> None:
        """SIGKILL for supervisor and worker, as a power cut would."""
        workers = self.workers() if self.process.alive() else []
        self.process.kill()
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        wait_until(lambda: all(ended(pid) for pid in workers), "end of the workers")

    def status(self) -> dict:
        return json.loads(run(lacewing(), "status", "--json", "--address", self.socket))

    def by_kernel(self) -> bool:
        """Whether the kernel shows layers, not the daemon itself."""
        return next(feature["used"] for feature in self.status()["features"] if feature["name"] == "trees-by-kernel")

    def wait_complete(self, image: str, seconds: float = 120) -> None:
        """Waits until every byte of an image's lazy layers is here."""
        def complete() -> bool:
            layers = [layer for layer in self.status()["layers"] if layer["image"] == image and layer["lazy"]]
            return bool(layers) and all(layer["bytes_present"] == layer["bytes_total"] for layer in layers)

        wait_until(complete, f"all bytes of {image}", seconds, pause=0.2)

    def resident_bytes(self) -> int:
        """Resident memory of supervisor and worker together."""
        total = 0
        for pid in [self.process.pid, *self.workers()]:
            status = Path(f"/proc/{pid}/status").read_text()
            if found := re.search(r"VmRSS:\s+(\d+) kB", status):
                total += int(found[1]) * 1024
        return total


class Containerd:
    """A containerd with private root, state and sockets; generation 1 is the distribution's 1.6, generation 2 is 2.x."""

    def __init__(self, folder: Path, generation: int, registry: Registry, daemon: Daemon | None):
        folder.mkdir(parents=True)
        self.folder, self.generation, self.registry = folder, generation, registry
        self.socket = folder / "sock"
        self.outputs = itertools.count(1)
        programs = containerd2_bin() if generation == 2 else Path("/usr/bin")
        self.ctr_program = programs / "ctr"
        template = "containerd2.toml" if generation == 2 else "containerd16.toml"
        config = fill(
            template, folder / "config.toml", DIR=folder, REGISTRY=registry.address,
            SNAPSHOTTER=daemon.socket if daemon else folder / "none",
            SNAPSHOTTER_ROOT=daemon.root if daemon else folder / "none",
        )
        if not daemon:
            text = config.read_text()
            config.write_text(text[:text.index("[proxy_plugins")].replace('snapshotter = "lacewing"', 'snapshotter = "overlayfs"'))
        env = {**CONTAINERD_ENV, "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin:/sbin"}
        self.process = Process("containerd", [programs / "containerd", "-c", config], folder / "log", env)

    def start(self) -> None:
        self.process.start()
        wait_until(self.ready, f"containerd in {self.folder}")

    def ready(self) -> bool:
        if not self.process.alive():
            raise RuntimeError(f"containerd ended\n{self.process.tail()}")
        return succeeds(self.ctr_program, "-a", self.socket, "version", timeout=10)

    def stop(self) -> None:
        self.process.stop()

    def ctr(self, *words, namespace: str = "default", **options) -> str:
        return run(self.ctr_program, "-a", self.socket, "-n", namespace, *words, **options)

    def client(self, *words, **options) -> str:
        """The lab's Go client."""
        return run(client_program(), "-a", self.socket, *words, **options)

    def pull(self, image: str, snapshotter: str, namespace: str = "default") -> str:
        """Pulls and unpacks; by `ctr` where it can be lazy, else by the Go client."""
        if self.generation == 2:
            return self.ctr("image", "pull", "--plain-http", "--snapshotter", snapshotter, image, namespace=namespace)
        return self.client("-n", namespace, "pull", snapshotter, image)

    def content(self, namespace: str = "default") -> set[str]:
        """Digests in the content store."""
        return set(self.ctr("content", "ls", "-q", namespace=namespace).split())

    def _output(self, verb: list, *words, **options) -> str:
        """Runs a command of ctr that runs another inside a container, and returns what both wrote.

        The shim writes the inner one's output to a file. Through ctr's own pipes it is lost at times: ctr closes them when
        the command has ended, also if they have not been opened by then.
        """
        log = self.folder / f"output-{next(self.outputs)}"
        written = lambda: log.read_text(errors="backslashreplace") if log.exists() else ""
        try:
            return self.ctr(*verb, "--log-uri", f"file://{log}", *words, **options) + written()
        except CommandFailed as failure:
            raise CommandFailed(failure.command, failure.status, failure.output + written()) from None

    def run(self, image: str, snapshotter: str, name: str, *command, namespace: str = "default", options=(), **settings) -> str:
        """Runs a container to its end and returns its output; `options` are more ones of `ctr run`."""
        words = ["--rm", "--snapshotter", snapshotter, "--runc-root", self.folder / "runc", *options, image, name]
        return self._output(["run"], *words, *command, namespace=namespace, **settings)

    def exec(self, name: str, *command, user: str = "0:0", namespace: str = "default", **options) -> str:
        """Runs a command in a running container and returns its output."""
        words = ["--exec-id", f"exec-{time.monotonic_ns()}", "--user", user, name]
        return self._output(["task", "exec"], *words, *command, namespace=namespace, **options)

    def start_container(self, image: str, snapshotter: str, name: str, *command, namespace: str = "default", options=()) -> None:
        """Starts a container in the background; `options` are more ones of `ctr run`."""
        # By default a container's cgroup is named by namespace and name alone: "kill all in it" of a lab that runs beside
        # this one would reach ours.
        cgroup = f"/lacewing-lab/{self.folder.name}-{os.getpid()}/{name}"
        words = ["run", "-d", "--snapshotter", snapshotter, "--runc-root", self.folder / "runc", "--cgroup", cgroup]
        words += [*options, image, name]
        self.ctr(*words, *command, namespace=namespace)

    def container_pid(self, name: str, namespace: str = "default") -> int:
        for line in self.ctr("task", "ls", namespace=namespace).splitlines():
            fields = line.split()
            if fields and fields[0] == name:
                return int(fields[1])
        raise LookupError(f"no task {name}")

    def remove_container(self, name: str, namespace: str = "default") -> None:
        self.ctr("task", "kill", "-s", "9", "-a", name, namespace=namespace, check=False)
        self.ctr("task", "rm", "-f", name, namespace=namespace, check=False)
        self.ctr("container", "rm", name, namespace=namespace, check=False)

    def remove_everything(self) -> None:
        """Containers and tasks of all namespaces."""
        for namespace in self.ctr("namespace", "ls", "-q", check=False).split():
            for name in self.ctr("container", "ls", "-q", namespace=namespace, check=False).split():
                self.remove_container(name, namespace)

    def remove_images(self) -> None:
        """All images, with what was unpacked of them."""
        for namespace in self.ctr("namespace", "ls", "-q").split():
            if images := self.ctr("image", "ls", "-q", namespace=namespace).split():
                self.ctr("image", "rm", "--sync", *images, namespace=namespace)

    def forget(self) -> None:
        """Deletes root and state; the daemon's root must go with them, or containerd and it disagree."""
        self.stop()
        unmount_below(self.folder)
        assert not mounts_below(self.folder)
        for name in ("root", "state", "runc"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
