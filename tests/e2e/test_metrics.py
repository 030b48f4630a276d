"""What a daemon tells over HTTP: metrics that move, health, the status page, a dump; and nothing that it must not tell."""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path

from cases import Case
from lab import collector, images, tool
from lab.collector import Collector
from lab.containers import CTR, running
from lab.nodes import Daemon
from lab.oci import Layout
from lab.paths import PROJECT
from lab.process import run, wait_until
from lab.registry import Registry, free_port
from telling import ask, told
from test_faults import drop_caches
from world import Node

SECRET = "planted-3f9c1e"
KEY = "planted-d2640b"
# What the collector of traces wants to see.
HEADER = "planted-7b20d4"


def metrics(daemon: Daemon) -> dict[str, float]:
    """Every sample of a scrape, by name and labels."""
    status, headers, text = ask(daemon, "/metrics")
    assert status == 200 and headers["content-type"].startswith("text/plain; version=0.0.4"), (status, headers)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def family(sample: str) -> str:
    return re.sub(r"_(bucket|sum|count)$", "", sample.split("{")[0])


def exposed(daemon: Daemon) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+) ", ask(daemon, "/metrics")[2], re.M))


def moved(before: dict[str, float], after: dict[str, float]) -> set[str]:
    return {family(name) for name, value in after.items() if before.get(name) != value}


# `Troubles` moves these.
TROUBLES = {"lacewing_dedup_bytes_total", "lacewing_corrupt_chunks_total"}
# What stands still by its nature; `test_disk`, for disks that are full or bounded; `Page`, for a pull that waits; the unit tests of
# `metrics`, for layers that are broken.
ELSEWHERE = {
    "lacewing_layers_broken",
    "lacewing_build_info", "lacewing_feature", "lacewing_store_size_bytes", "lacewing_unstored_frames_total",
    "lacewing_evicted_bytes_total", "lacewing_pulls_in_progress",
}


class Metrics(Case):
    TIMEOUT_S = 4

    def node(self):
        """A node with a registry of its own, and a lazy image there."""
        registry = self.world.lab.registry()
        registry.push(self.world.layout, "pause", "pause", "1")
        image = f"{registry.address}/lazy/redis:1"
        tool.convert(registry.push(self.world.layout, "redis", "redis", "1"), image)
        daemon, containerd = self.world.lab.node(2, registry, read_timeout_s=self.TIMEOUT_S, background=False)
        return registry, image, daemon, containerd

    def resend(self, registry: Registry, daemon: Daemon, file: Path) -> None:
        """Kills the worker while a read waits for the registry."""
        os.kill(registry.process.pid, signal.SIGSTOP)
        try:
            before = metrics(daemon)["lacewing_read_misses_total"]
            reader = subprocess.Popen(["sha256sum", file], stdout=subprocess.DEVNULL)
            wait_until(lambda: metrics(daemon)["lacewing_read_misses_total"] > before, "a read that waits")
            daemon.kill_worker()
            wait_until(daemon.ready, "the next worker")
            wait_until(lambda: metrics(daemon)["lacewing_reads_resent_total"] > 0, "the read, sent again")
        finally:
            os.kill(registry.process.pid, signal.SIGCONT)
        self.assertEqual(reader.wait(60), 0)

    def test_everything_moves(self):
        registry, image, daemon, containerd = self.node()
        seen, samples = set(), metrics(daemon)
        containerd.pull(image, "lacewing")
        containerd.pull(f"{registry.address}/pause:1", "lacewing")
        with running(containerd, CTR, image, "lacewing") as container:
            seen |= moved(samples, samples := metrics(daemon))
            root = Path(f"/proc/{container.pid}/root")
            self.resend(registry, daemon, root / "usr/bin/redis-benchmark")
            seen |= moved(samples, samples := metrics(daemon))
            registry.stop()
            run("cat", root / "usr/bin/perl", check=False, timeout=60)
            after = metrics(daemon)
            seen |= moved(samples, after)
            self.assertGreater(after["lacewing_read_errors_total"], 0)
            self.assertGreater(after['lacewing_fetches_total{outcome="abandoned"}'], 0)
            slowest = daemon.status()["slowest"]
            self.assertEqual(slowest, sorted(slowest, key=lambda fetch: -fetch["took_ms"]))
            self.assertIn("abandoned", {fetch["outcome"] for fetch in slowest})
            registry.start()
        self.assertEqual(exposed(daemon) - seen - ELSEWHERE - TROUBLES, set(), "these stood still")
        page = (PROJECT / "misc/docs/metrics.md").read_text()
        told = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
        # `test_p2p` moves those of the piece layer.
        self.assertEqual(exposed(daemon), {name for name in told if not name.startswith("lacewing_p2p_")})

    def test_one_line_tells_of_an_image(self):
        node = self.world.new_node(2)
        node.containerd.pull(self.world.lazy("busybox"), "lacewing")
        node.containerd.pull(self.world.plain("redis"), "lacewing")
        lines = [line for line in node.daemon.process.log.read_text().splitlines() if "lazy_layers=" in line]
        by_image = {image: [line for line in lines if image in line]
                    for image in (self.world.lazy("busybox"), self.world.plain("redis"))}
        lazy, ordinary = by_image.values()
        self.assertEqual((len(lazy), len(ordinary)), (1, 1), lines)
        self.assertIn("lazy image", lazy[0])
        self.assertIn("ordinary image: the image is not converted", ordinary[0])


class Troubles(Case):
    def image(self, registry: Registry, name: str, files: dict[str, bytes]) -> str:
        def fill(tar):
            images.write_busybox(tar)
            for path, data in files.items():
                tar.add(path, data=data)

        with tempfile.TemporaryDirectory(dir=self.world.lab.folder) as folder:
            layout = Layout(Path(folder))
            layout.image(name, [layout.layer(fill)])
            plain = registry.push(layout, name, name, "1")
        # In repositories of their own the second does not know what the first has.
        tool.convert(plain, target := f"{registry.address}/lazy/{name}:1")
        return target

    def test_what_is_shared_or_wrong(self):
        registry = self.world.lab.registry()
        same, spoilt = os.urandom(3 << 20), os.urandom(3 << 20)
        first = self.image(registry, "first", {"same": same})
        second = self.image(registry, "second", {"same": same, "spoilt": spoilt})
        daemon, containerd = self.world.lab.node(2, registry, read_timeout_s=4, background=False)
        before = metrics(daemon)
        for image in (first, second):
            containerd.pull(image, "lacewing")
        with running(containerd, CTR, first, "lacewing") as one, running(containerd, CTR, second, "lacewing") as two:
            self.assertEqual(Path(f"/proc/{one.pid}/root/same").read_bytes(), same)
            for file in registry.process.log.parent.rglob("data"):
                if file.is_file() and file.stat().st_size > 1 << 20:
                    file.write_bytes(bytes(byte ^ 255 for byte in file.read_bytes()))
            # What the first image has is right, whatever the registry says by now.
            self.assertEqual(Path(f"/proc/{two.pid}/root/same").read_bytes(), same)
            with self.assertRaises(OSError):
                Path(f"/proc/{two.pid}/root/spoilt").read_bytes()
        seen = moved(before, metrics(daemon))
        self.assertEqual(TROUBLES - seen, set(), "these stood still")


class Site(Case):
    def test_answers(self):
        node = self.world.node(2)
        node.containerd.pull(self.world.lazy("busybox"), "lacewing")
        daemon = node.daemon
        for path in ("/healthz", "/readyz"):
            self.assertEqual(ask(daemon, path)[0::2], (200, "ok\n"), path)
        told = json.loads(ask(daemon, "/status.json")[2])
        self.assertEqual(told.keys(), daemon.status().keys())
        self.assertIn(self.world.lazy("busybox"), {layer["image"] for layer in told["layers"]})
        status, headers, page = ask(daemon, "/")
        self.assertEqual(status, 200)
        self.assertIn("default-src 'none'", headers["content-security-policy"])
        self.assertIsNone(re.search(r"https?://", page))
        self.assertEqual(ask(daemon, "/", "POST")[0], 405)
        self.assertEqual(ask(daemon, "/nowhere")[0], 404)
        # As a browser would ask for a web page that had its own name resolved to this node.
        for path, expected in {"/": 403, "/status.json": 403, "/debug": 403, "/metrics": 200, "/healthz": 200}.items():
            self.assertEqual(ask(daemon, path, headers={"Host": "evil.example"})[0], expected, path)
        self.assertEqual(os.stat(daemon.http).st_mode & 0o777, 0o600)
        dump = json.loads(ask(daemon, "/debug")[2])
        self.assertEqual(dump["status"]["root"], str(daemon.root))
        self.assertTrue(any(line.startswith("lacewing_reads_total ") for line in dump["metrics"]))

    def test_an_address_in_use_keeps_nobody_from_reading(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            daemon = self.world.lab.daemon()
            listen_at(daemon, f"127.0.0.1:{taken.getsockname()[1]}")
            self.assertIn("no metrics and no status page", daemon.process.log.read_text())
            self.assertTrue(daemon.ready())


def listen_at(daemon: Daemon, address: str) -> None:
    """Starts a daemon anew with another place for HTTP."""
    daemon.stop()
    text = daemon.config.read_text()
    daemon.config.write_text(re.sub(r"(\[http\]\nlisten = ).*", rf'\1"{address}"', text))
    daemon.start()


class Secrets(Case):
    def test_a_planted_secret_is_told_nowhere(self):
        """A password and a header of hosts.toml, in a daemon that logs all it can; what it sends to a collector of traces, too."""
        node, registry = self.world.new_node(2, background=False), self.world.registry
        folder = self.world.lab.directory("secret")
        auth = base64.b64encode(f"someone:{SECRET}".encode()).decode()
        (folder / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": auth}}}))
        hosts = folder / "hosts" / registry.address
        hosts.mkdir(parents=True)
        url = f"http://{registry.address}"
        (hosts / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\n  [host."{url}".header]\n    X-Key = "{KEY}"\n')
        daemon = node.daemon
        daemon.stop()
        text = daemon.config.read_text()
        daemon.config.write_text(f'{text}\n[registry]\ndocker_config = "{folder}/config.json"\nhosts_dir = "{folder}/hosts"\n')
        daemon.process.env["LACEWING_LOG"] = "trace"
        traces = Collector() if collector.installed() else None
        if traces:
            self.addCleanup(traces.close)
            daemon.process.env.update({"OTEL_EXPORTER_OTLP_ENDPOINT": traces.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200",
                                       "OTEL_EXPORTER_OTLP_HEADERS": f"authorization=Bearer {HEADER}"})
        daemon.start()
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        self.assertIn("ready", node.containerd.run(image, "lacewing", "secret", *self.world.images["redis"].ready))
        self.assertTrue(all(layer["lazy"] for layer in daemon.status()["layers"]))
        found = told(daemon)
        for where, what in found.items():
            # The environment is where its operator put it.
            self.assertTrue(HEADER not in what or where.startswith("environ"), where)
        if traces:
            wait_until(lambda: traces.named("pull") and traces.named("fetch"), "traces", 60)
            found["traces"] = traces.raw.decode(errors="replace")
            self.assertIn(HEADER, found["traces"])
        for where, what in found.items():
            for secret in (SECRET, auth, KEY):
                self.assertNotIn(secret, what, where)


class Page(Case):
    """The status page as a browser shows it. Needs Debian's chromium, which the other tests do not."""

    def setUp(self) -> None:
        super().setUp()
        if not shutil.which("chromium"):
            self.skipTest("no chromium")
        self.folder = self.world.lab.directory("page")

    def shown(self, origin: str) -> tuple[str, set[str]]:
        """The page's text once its script has run, and all that the page asked for, by the browser's own log."""
        log = self.folder / "netlog.json"
        command = [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--virtual-time-budget=4000",
            # What the browser asks for by itself has no initiator, and does not get out either.
            "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            f"--log-net-log={log}", f"--user-data-dir={self.folder}/profile", "--dump-dom", f"{origin}/",
        ]
        text = subprocess.run(command, capture_output=True, timeout=120).stdout.decode()
        asked = {event["params"]["url"] for event in json.loads(log.read_text())["events"]
                 if "url" in event.get("params", {}) and event["params"].get("initiator", "").startswith(origin)}
        return text, asked

    def peer(self, number: int, port: int, extra: str = "") -> Node:
        secret = self.folder / "secret"
        secret.write_text("a secret for tests, which is long enough\n")
        return self.world.new_node(2, extra=f'[p2p]\nseeds = ["127.0.9.1:{port}"]\nlisten = "127.0.9.{number}:{port}"\n'
                                            f'secret_file = "{secret}"\n{extra}')

    def silent_host(self) -> tuple[str, socket.socket]:
        """A name of the registry under which the daemon, and it alone, gets no answer; and what keeps silent there."""
        silent = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(silent.close)
        host = f"localhost:{self.world.registry.address.rsplit(':')[-1]}"
        hosts = self.folder / "hosts" / host
        hosts.mkdir(parents=True)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        (hosts / "hosts.toml").write_text(f'server = "{url}"\n[host."{url}"]\n  capabilities = ["pull", "resolve"]\n')
        return host, silent

    def test_pull_reason_and_peer(self):
        """A pull under way, a layer that is not lazy and why, a peer that went away."""
        host, silent = self.silent_host()
        swarm, port = free_port(), free_port()
        node = self.peer(1, swarm, f'[registry]\nhosts_dir = "{self.folder}/hosts"\n')
        daemon = node.daemon
        daemon.config.write_text(daemon.config.read_text().replace("[lazy]\n", "[lazy]\noffer_timeout_s = 200\n"))
        listen_at(daemon, f"127.0.0.1:{port}")
        origin = f"http://127.0.0.1:{port}"
        peers = lambda: json.loads(run("curl", "-sf", f"{origin}/peers.json"))
        other = self.peer(2, swarm)
        wait_until(lambda: len(peers()) == 1, "the peer", 60)
        other.daemon.kill_all()
        node.containerd.pull(self.world.lazy("redis"), "lacewing")
        node.containerd.pull(self.world.plain("busybox"), "lacewing")
        self.world.lazy("edge")
        words = ["image", "pull", "--plain-http", "--snapshotter", "lacewing", f"{host}/lazy/edge:1"]
        pull = subprocess.Popen([node.containerd.ctr_program, "-a", node.containerd.socket, *words], stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: daemon.status()["pulls"], "the pull that waits", 60)
            wait_until(lambda: [peer["state"] for peer in peers()] == ["gone"], "the end of the peer", 120)
            text, asked = self.shown(origin)
        finally:
            pull.kill()
            pull.wait()
            silent.close()
        self.assertIn('data-state="shown"', text)
        self.assertIn(self.world.lazy("redis"), text)
        self.assertIn("the image is not converted", text)
        under_way = text[text.index('id="pulls"'):text.index('id="layers"')]
        self.assertIn(f"{host}/lazy/edge:1", under_way)
        away = text[text.index('id="peers"'):text.index('id="slowest"')]
        self.assertIn(f"127.0.9.2:{swarm}", away)
        self.assertIn("went away", away)
        self.assertEqual(asked, {f"{origin}/status.json", f"{origin}/peers.json"})
