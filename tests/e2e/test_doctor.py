"""`lacewing doctor` on a node as it should be, and on broken ones: each is made here, and must be found with what to do."""

import json
import os
import re
import socket
import time
from pathlib import Path

from cases import Case, for_each
from lab import tool
from lab.certificates import Authority
from lab.nodes import Daemon
from lab.paths import lacewing
from lab.process import CommandFailed, run
from lab.registry import free_port

IMAGE = "redis"


def doctor(node, *options, around=()) -> tuple[int, dict]:
    """Its exit status and report. `around`: what to run it in."""
    root = () if "--root" in options else ("--root", node.daemon.root)
    command = [
        *around, lacewing(), "doctor", "--json", *root, "--address", node.daemon.socket,
        "--config", node.daemon.config, "--containerd-config", node.containerd.folder / "config.toml", *options,
    ]
    try:
        return 0, tool.last_json(run(*command, timeout=120))
    except CommandFailed as failed:
        return failed.status, tool.last_json(failed.output)


def problems(report: dict) -> dict[str, str]:
    return {found["check"]: f"{found['found']} -> {found['advice']}" for found in report["findings"] if found["verdict"] == "problem"}


class Healthy(Case):
    def check(self, generation: int) -> None:
        node = self.world.node(generation)
        status, report = doctor(node, "--image", self.world.lazy(IMAGE))
        self.assertEqual((problems(report), status, report["healthy"]), ({}, 0, True))
        text = run(lacewing(), "doctor", "--root", node.daemon.root, "--address", node.daemon.socket, "--config",
                   node.daemon.config, "--containerd-config", node.containerd.folder / "config.toml")
        self.assertIn("nothing is wrong", text)

    def test_1(self):
        self.check(1)

    def test_2(self):
        self.check(2)


def edited(file: Path, pattern: str, replacement: str) -> None:
    text = file.read_text()
    changed = re.sub(pattern, replacement, text)
    assert changed != text, (pattern, text)
    file.write_text(changed)


class Sick:
    """A node's set-up, and ways to break it. Each returns further options of `doctor` and what it is to run in."""

    def __init__(self, world, node, folder: Path):
        self.world, self.node, self.folder = world, node, folder

    @property
    def containerd(self) -> Path:
        return self.node.containerd.folder / "config.toml"

    @property
    def config(self) -> Path:
        return self.node.daemon.config

    def masked(self, target: str, content: str) -> list:
        """Runs what follows with another file in the place of `target`."""
        file = self.folder / "mask"
        file.write_text(content)
        return ["unshare", "-m", "sh", "-c", f'mount --bind "{file}" {target} && exec "$@"', "sh"]

    def no_daemon(self):
        self.node.daemon.stop()

    def killed_daemon(self):
        self.node.daemon.kill_all()

    def no_plugin(self):
        edited(self.containerd, r"proxy_plugins\.lacewing", "proxy_plugins.other")

    def wrong_address(self):
        edited(self.containerd, re.escape(str(self.node.daemon.socket)), "/run/elsewhere.sock")

    def pods_use_overlayfs(self):
        edited(self.containerd, r'(cri\.v1\.images"\]\n  snapshotter = )"lacewing"', r'\1"overlayfs"')

    def no_unpack_config(self):
        edited(self.containerd, r'snapshotter = "lacewing"\n  differ', 'snapshotter = "native"\n  differ')

    def rebase(self):
        edited(self.containerd, '"remap-ids"', '"remap-ids", "rebase"')

    def containerd_gone(self):
        self.node.containerd.stop()

    def no_erofs(self):
        return (), self.masked("/proc/filesystems", "nodev\tproc\nnodev\toverlay\nnodev\tfuse\n")

    def no_fuse_device(self):
        return (), self.masked("/dev/fuse", "")

    def open_socket(self):
        self.node.daemon.socket.chmod(0o666)

    def unknown_field(self):
        self.config.write_text(self.config.read_text() + "\n[lazzy]\nenabled = true\n")

    def broken_hosts(self):
        hosts = self.folder / "certs.d/registry.example"
        hosts.mkdir(parents=True)
        (hosts / "hosts.toml").write_text("server = \n")
        self.config.write_text(f'{self.config.read_text()}\n[registry]\nhosts_dir = "{hosts.parent}"\n')

    def helper_missing(self):
        file = self.folder / "config.json"
        file.write_text(json.dumps({"credsStore": "nowhere"}))
        self.config.write_text(f'{self.config.read_text()}\n[registry]\ndocker_config = "{file}"\n')

    def registry_away(self):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return ("--image", f"127.0.0.1:{probe.getsockname()[1]}/a:1"), ()

    def image_not_there(self):
        return ("--image", f"{self.world.registry.address}/nothing/here:1"), ()

    def image_not_converted(self):
        return ("--image", self.world.plain(IMAGE)), ()

    def hardly_any_space(self):
        disk, place = self.folder / "disk", self.folder / "small"
        with disk.open("wb") as file:
            file.truncate(32 << 20)
        run("mkfs.ext4", "-q", "-F", disk)
        place.mkdir()
        run("mount", "-o", "loop", disk, place)
        return ("--root", place / "root"), ()

    def root_on_tmpfs(self):
        place = self.folder / "tmpfs"
        place.mkdir()
        run("mount", "-t", "tmpfs", "none", place)
        return ("--root", place / "root"), ()

    def switched_off_by_the_kernel(self):
        """The daemon runs where it may not use FUSE."""
        daemon: Daemon = self.node.daemon
        daemon.stop()
        daemon.process.command = [*self.masked("/dev/fuse", ""), *daemon.process.command]
        run("umount", "-l", daemon.root / "data", check=False)
        daemon.start()


FOUND = {
    "no_daemon": ("daemon", "systemctl enable --now lacewing"),
    "killed_daemon": ("mounts", "is dead"),
    "no_plugin": ("containerd plugin", "has no plugin `lacewing`"),
    "wrong_address": ("containerd plugin", "/run/elsewhere.sock"),
    "pods_use_overlayfs": ("containerd CRI", 'set snapshotter = "lacewing"'),
    "no_unpack_config": ("containerd transfer", "add an unpack_config"),
    "rebase": ("containerd plugin", "rebase"),
    "containerd_gone": ("containerd", "start containerd"),
    "no_erofs": ("erofs", "modprobe erofs"),
    "no_fuse_device": ("/dev/fuse", "modprobe fuse"),
    "open_socket": ("socket", "chmod 600"),
    "unknown_field": ("configuration", "lazzy"),
    "broken_hosts": ("hosts", "hosts.toml"),
    "helper_missing": ("credentials", "docker-credential-nowhere"),
    "registry_away": ("image", "unavailable"),
    "image_not_there": ("image", "not found"),
    "image_not_converted": ("image", "lacewing convert"),
    "hardly_any_space": ("disk space", "free some space"),
    "root_on_tmpfs": ("disk", "tmpfs"),
    "switched_off_by_the_kernel": ("daemon", "layers are not lazy here"),
}


@for_each([(name,) for name in FOUND])
class Broken(Case):
    def check(self, name: str) -> None:
        folder = self.world.lab.directory(f"doctor-{name}")
        self.world.lazy(IMAGE)
        sick = Sick(self.world, self.world.new_node(2), folder)
        options, around = getattr(sick, name)() or ((), ())
        status, report = doctor(sick.node, *options, around=around)
        check, words = FOUND[name]
        found = problems(report)
        self.assertEqual((status, report["healthy"]), (1, False))
        self.assertIn(check, found)
        self.assertIn(words, found[check])
        if name in {"no_daemon", "killed_daemon"}:
            sick.node.daemon.start()


class Stale(Case):
    def test_what_was_changed_since_it_was_read(self):
        """A file that is later than the start of what reads it: until that is started anew."""
        node = self.world.new_node(2)
        files = {node.daemon.config: "systemctl reload lacewing", node.containerd.folder / "config.toml": "systemctl restart containerd"}

        def advised(changed: float) -> list[str]:
            for file in files:
                os.utime(file, (changed, changed))
            status, report = doctor(node)
            self.assertEqual(status, 0)
            return [found["advice"] for found in report["findings"] if "changed since" in found["found"]]

        self.assertEqual(advised(time.time() - 3600), [])
        self.assertEqual(advised(time.time() + 3600), [f"`{command}`" for command in files.values()])


def findings(report: dict, verdict: str) -> str:
    """What was found so, and what to do, of all that concerns peers."""
    return "\n".join(f"{found['check']}: {found['found']} -> {found['advice']}" for found in report["findings"]
                     if found["verdict"] == verdict and found["check"].startswith("peers"))


class Peers(Case):
    """A node of the piece layer that is as it should be, and ones that are not; beside a seed that is there."""

    OWN, SEED = "127.0.10.2", "127.0.10.1"

    def setUp(self) -> None:
        super().setUp()
        self.folder, self.port = self.world.lab.directory("peers"), free_port()
        self.secret = self.written("secret", "a secret for tests, which is long enough")
        self.seed = f"{self.SEED}:{self.port}"
        self.world.new_node(2, extra=f'[p2p]\nseeds = ["{self.seed}"]\nlisten = "{self.seed}"\nsecret_file = "{self.secret}"\n')
        self.node = self.world.new_node(2)
        self.plain = self.node.daemon.config.read_text()

    def written(self, name: str, content: str, mode: int = 0o600) -> Path:
        file = self.folder / name
        file.write_text(f"{content}\n")
        file.chmod(mode)
        return file

    def look(self, proof: str, *seeds: str, clock: str = "") -> tuple[int, dict]:
        """`clock`: how wrong this node's is."""
        listed = json.dumps(list(seeds) or [self.seed])
        self.node.daemon.config.write_text(
            f'{self.plain}\n[p2p]\nseeds = {listed}\nlisten = "{self.OWN}:{self.port}"\n{proof}\n')
        return doctor(self.node, around=["faketime", "-f", clock] if clock else ())

    def test_seeds(self):
        right = f'secret_file = "{self.secret}"'
        status, report = self.look(right)
        self.assertEqual((status, findings(report, "problem")), (0, ""))
        self.assertIn(f"{self.seed} is there", findings(report, "ok"))
        # One that is there will do.
        status, report = self.look(right, self.seed, f"{self.SEED}:1", f"{self.OWN}:{self.port}")
        self.assertEqual((status, findings(report, "problem")), (0, ""))
        self.assertIn("this node itself", findings(report, "ok"))
        self.assertIn(f"{self.SEED}:1", findings(report, "warning"))
        other = self.written("other", "another secret for tests, long enough, too")
        shown = self.written("shown", "a secret for tests, which is long enough", 0o644)
        short = self.written("short", "secret")
        for name, words, given in (
            ("a name that is none", "correct the name in [p2p] seeds", self.look(right, "seed.invalid:7070")),
            ("nobody there", "start the daemon there", self.look(right, f"{self.SEED}:1")),
            ("another secret", "both nodes need the same secret", self.look(f'secret_file = "{other}"')),
            ("a secret for all to see", "may be read by others", self.look(f'secret_file = "{shown}"')),
            ("no secret", "are no secret", self.look(f'secret_file = "{short}"')),
            ("a clock that is slow", "compare the clocks", self.look(right, clock="-40d")),
            ("a clock that is fast", "compare the clocks", self.look(right, clock="+40d")),
        ):
            with self.subTest(name):
                self.assertIn(words, findings(given[1], "problem"))
                self.assertEqual(given[0], 1)

    def test_certificates(self):
        own, other = Authority(self.folder, "own"), Authority(self.folder, "other")

        def proof(certificate: tuple[Path, Path], authority: Authority = own) -> str:
            names = ("ca_file", authority.certificate), ("cert_file", certificate[0]), ("key_file", certificate[1])
            return "\n".join(f'{name} = "{file}"' for name, file in names)

        good, three_days = proof(own.issue("good", self.OWN)), proof(own.issue("days", self.OWN, 3))
        self.assertIn("is valid", findings(self.look(good)[1], "ok"))
        self.assertIn("expires within a week", findings(self.look(three_days)[1], "warning"))
        for name, words, given in (
            ("expired", "has expired", self.look(three_days, clock="+10d")),
            ("not yet valid", "is not valid yet", self.look(good, clock="-10d")),
            ("for another node", f"is not for {self.OWN}", self.look(proof(own.issue("elsewhere", "127.0.10.9")))),
            ("of another authority", "other nodes refuse it", self.look(proof(other.issue("strange", self.OWN)))),
        ):
            with self.subTest(name):
                self.assertIn(words, findings(given[1], "problem"))
                self.assertEqual(given[0], 1)
