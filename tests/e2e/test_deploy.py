"""Setting a node up: the installer on a scratch root, under both containerds; the manifests; the dashboard and its metrics."""

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
import unittest
from pathlib import Path

from cases import Case
from lab import images, rootfs
from lab.containers import CTR, running
from lab.nodes import containerd2_bin
from lab.paths import PROJECT, lacewing
from lab.process import CommandFailed, run, wait_until
from test_faults import drop_caches, readers, write_list
from test_upgrade import answering, runs
from world import World

DEPLOY = PROJECT / "misc/deploy"
CONFIG = "etc/containerd/config.toml"
# Any program is as good, and a debug build is large.
PROGRAM = Path("/bin/true")


class Scratch:
    """A node's root, as far as the installer looks."""

    def __init__(self, folder: Path, config: str | None):
        self.root = folder / "root"
        shutil.rmtree(self.root, ignore_errors=True)
        (self.root / "etc/containerd").mkdir(parents=True)
        self.config = self.root / CONFIG
        if config is not None:
            self.config.write_text(config)

    def install(self, *options) -> str:
        return run(DEPLOY / "install", "--root", self.root, "--binary", PROGRAM, *options)

    def files(self) -> dict[str, tuple[int, int]]:
        found = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def daemonset_image(world: World) -> tuple[str, list[str]]:
    """The image that the Dockerfile describes, on a base of the same release, and its command."""
    text = (DEPLOY / "Dockerfile").read_text()
    packages = re.search(r"--no-install-recommends ([^&]+) &&", text)[1].split()
    *copied, target = re.search(r"(?m)^COPY (.+)$", text)[1].split()
    system = rootfs.built("daemonset", rootfs.base(), rootfs.install(*packages))

    def fill(tar):
        for path in copied:
            source = PROGRAM if path.endswith("/lacewing") else PROJECT / path
            tar.add(f"{target.strip('/')}/{source.name if source != PROGRAM else 'lacewing'}", mode=0o755, data=source.read_bytes())

    layers = [images.blob(world.layout, made) for made in (rootfs.base(), system)]
    world.layout.image("daemonset", [*layers, world.layout.layer(fill)])
    return world.registry.push(world.layout, "daemonset", "daemonset", "1"), json.loads(re.search(r"(?m)^ENTRYPOINT (.+)$", text)[1])


OWN_2 = """version = 2
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "registry.example/pause:1"
    [plugins."io.containerd.grpc.v1.cri".containerd]
      snapshotter = "overlayfs"
      default_runtime_name = "runc"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
        runtime_type = "io.containerd.runc.v2"
        [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
          SystemdCgroup = true
"""
OWN_3 = """version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
[plugins.'io.containerd.cri.v1.images']
  snapshotter = 'overlayfs' # as ever
  disable_snapshot_annotations = true
[plugins.'io.containerd.cri.v1.runtime'.containerd]
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      SystemdCgroup = true
[plugins.'io.containerd.transfer.v1.local']
  unpack_config = []
  max_concurrent_downloads = 3
"""


def table(text: str, *names: str):
    found = tomllib.loads(text)
    for name in names:
        found = found[name]
    return found


class Install(Case):
    def folder(self) -> Path:
        return self.world.lab.directory(f"deploy-{self.id().rsplit('.', 1)[-1]}")

    def check(self, config: str | None, pods: tuple[str, ...]) -> Scratch:
        scratch = Scratch(self.folder(), config)
        self.assertIn("needs systemctl restart containerd", scratch.install())
        text = scratch.config.read_text()
        self.assertEqual(table(text, "proxy_plugins", "lacewing", "type"), "snapshot")
        found = table(text, "plugins", *pods)
        self.assertEqual((found["snapshotter"], found["disable_snapshot_annotations"]), ("lacewing", False))
        self.assertEqual((scratch.root / "usr/local/bin/lacewing").read_bytes(), PROGRAM.read_bytes())
        before = scratch.files()
        self.assertIn("nothing to change", scratch.install())
        self.assertEqual(scratch.files(), before, "the second run wrote something")
        return scratch

    def test_version_2(self):
        scratch = self.check(OWN_2, ("io.containerd.grpc.v1.cri", "containerd"))
        cri = table(scratch.config.read_text(), "plugins", "io.containerd.grpc.v1.cri")
        self.assertEqual(cri["sandbox_image"], "registry.example/pause:1")
        self.assertEqual(cri["containerd"]["runtimes"]["runc"]["runtime_type"], "io.containerd.runc.v2")
        self.assertIn(f"changed /{CONFIG}", scratch.install("--uninstall"))
        self.assertEqual(scratch.config.read_text(), OWN_2)
        self.assertTrue((scratch.root / "usr/local/bin/lacewing").exists(), "pods may read through it")

    def test_version_3(self):
        scratch = self.check(OWN_3, ("io.containerd.cri.v1.images",))
        transfer = table(scratch.config.read_text(), "plugins", "io.containerd.transfer.v1.local")
        self.assertEqual([entry["snapshotter"] for entry in transfer["unpack_config"]], ["overlayfs", "lacewing"])
        self.assertEqual(transfer["max_concurrent_downloads"], 3)
        scratch.install("--uninstall")
        self.assertEqual(scratch.config.read_text(), OWN_3)

    def test_no_configuration(self):
        self.check(None, ("io.containerd.grpc.v1.cri", "containerd"))

    def test_not_for_pods(self):
        scratch = Scratch(self.folder(), OWN_2)
        scratch.install("--snapshotter-for-pods", "no")
        cri = table(scratch.config.read_text(), "plugins", "io.containerd.grpc.v1.cri", "containerd")
        self.assertEqual(cri["snapshotter"], "overlayfs")

    def test_for_a_runtime(self):
        """A runtime class of its own, as the default one; other pods keep their snapshotter."""
        for config, cri, pods in ((OWN_2, ("io.containerd.grpc.v1.cri", "containerd"), ("io.containerd.grpc.v1.cri", "containerd")),
                                  (OWN_3, ("io.containerd.cri.v1.runtime", "containerd"), ("io.containerd.cri.v1.images",))):
            scratch = Scratch(self.folder(), config)
            scratch.install("--snapshotter-for-pods", "lazy")
            text = scratch.config.read_text()
            made = table(text, "plugins", *cri, "runtimes", "lazy")
            self.assertEqual((made["runtime_type"], made["snapshotter"]), ("io.containerd.runc.v2", "lacewing"))
            self.assertIs(made["options"]["SystemdCgroup"], True)
            others = table(text, "plugins", *pods)
            if config is OWN_3:
                self.assertEqual(others["runtime_platforms"]["lazy"]["snapshotter"], "lacewing")
            self.assertEqual((others["snapshotter"], others["disable_snapshot_annotations"]), ("overlayfs", False))
            self.assertIn("nothing to change", scratch.install("--snapshotter-for-pods", "lazy"))
            scratch.install("--uninstall")
            self.assertEqual(scratch.config.read_text(), config)
        self.refused(OWN_3, "configures the runtime runc itself", "--snapshotter-for-pods", "runc")

    def refused(self, config: str, words: str, *options) -> None:
        scratch = Scratch(self.folder(), config)
        with self.assertRaises(CommandFailed) as failed:
            scratch.install(*options)
        self.assertIn(words, failed.exception.output)
        self.assertEqual(scratch.config.read_text(), config)
        self.assertEqual(set(scratch.files()), {CONFIG})

    def test_refuses_what_it_cannot_change(self):
        self.refused("disabled_plugins = []\n", "of version 1")
        self.refused('version = 2\n[proxy_plugins.lacewing]\n  type = "snapshot"\n', "itself")
        self.refused('version = 2\nplugins."io.containerd.grpc.v1.cri".containerd.snapshotter = "native"\n', "cannot change")
        self.refused("version = 2\n[broken\n", "install: ")

    def test_containerd_and_doctor_agree(self):
        """Both generations of containerd read what was written, and merge it to the same."""
        programs = {OWN_2: Path("/usr/bin/containerd"), OWN_3: containerd2_bin() / "containerd"}
        for config, program in programs.items():
            scratch = Scratch(self.folder(), config.replace("imports =", "#"))
            scratch.install()
            dumped = run(program, "--config", scratch.config, "config", "dump")
            dumped = dumped[dumped.index("disabled_plugins") if "disabled_plugins" in dumped else 0:]
            self.assertRegex(dumped, r"(?s)\[proxy_plugins\.lacewing\].*type = [\"']snapshot[\"']")
            self.assertRegex(dumped, r"snapshotter = [\"']lacewing[\"']")
            self.assertIn("disable_snapshot_annotations = false", dumped)
            report = run(lacewing(), "doctor", "--json", "--containerd-config", scratch.config, "--config",
                         PROJECT / "misc/examples/config.toml", check=False)
            found = {one["check"]: one["verdict"] for one in json.loads(report[report.index("{"):])["findings"]}
            self.assertEqual((found["containerd plugin"], found["containerd CRI"]), ("ok", "ok"), report)

    def test_the_pods_install_step(self):
        """What the DaemonSet's container runs first, in its image, on a scratch root."""
        scratch, node = Scratch(self.folder(), OWN_2), self.world.plain_node(2)
        image, command = daemonset_image(self.world)
        node.pull(image, "overlayfs")
        options = ["--mount", f"type=bind,src={scratch.root},dst=/host,options=rbind:rw"]
        step = lambda name: node.run(image, "overlayfs", name, *command, "install", options=options)
        self.assertIn("needs systemctl daemon-reload", step("first"))
        self.assertEqual((scratch.root / "usr/local/bin/lacewing").read_bytes(), PROGRAM.read_bytes())
        self.assertEqual(step("second").strip(), "nothing to change")


def documents() -> list[dict]:
    import yaml
    return list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


class Manifests(unittest.TestCase):
    def test_schema(self):
        """Against Kubernetes' own schemas, which the package kubernetes-validate carries."""
        try:
            import kubernetes_validate
        except ImportError:
            self.skipTest("no kubernetes-validate; misc/lab/install gets it from PyPI")
        for document in documents():
            for release in ("1.29", kubernetes_validate.latest_version()):
                kubernetes_validate.validate(document, release, strict=True)

    def test_parts_fit_together(self):
        try:
            kinds = {document["kind"]: document for document in documents()}
        except ImportError:
            self.skipTest("no yaml")
        pod = kinds["DaemonSet"]["spec"]["template"]
        selector = kinds["Service"]["spec"]["selector"]
        self.assertEqual(selector, {key: pod["metadata"]["labels"][key] for key in selector})
        self.assertEqual(kinds["Service"]["spec"]["clusterIP"], "None")
        self.assertEqual(pod["spec"]["serviceAccountName"], kinds["ServiceAccount"]["metadata"]["name"])
        self.assertTrue(pod["spec"]["hostPID"] and pod["spec"]["hostNetwork"])


class Monitoring(unittest.TestCase):
    def test_every_metric_exists(self):
        known = set(re.findall(r"^\| `(\w+)` \|", (PROJECT / "misc/docs/metrics.md").read_text(), re.M))
        dashboard = json.loads((DEPLOY / "monitoring/dashboard.json").read_text())
        told = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
        told += re.findall(r"expr: (.*)", (DEPLOY / "monitoring/alerts.yaml").read_text())
        self.assertGreater(len(told), 15)
        for expression in told:
            for name in re.findall(r"\b(?:lacewing|process)_\w+", expression):
                self.assertIn(re.sub(r"_bucket$", "", name), known, expression)


# What the pod's script runs on the host; here the host is the scratch root, and systemd a file and a signal. A call fails if its
# first word is in `$HOST/fail`.
STANDS_FOR = {
    "nsenter": 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n',
    "journalctl": "exec sleep 100000\n",
    "systemctl": """echo "$*" >>"$HOST/systemctl"
        [ "$1" != "$(cat "$HOST/fail" 2>/dev/null)" ] || exit 1
        case $1 in reload-or-restart) [ ! -e "$HOST/pid" ] || kill -HUP "$(cat "$HOST/pid")" ;; esac
    """,
}


class Host:
    """A node's root, with what the pod's script runs there, and the files of the pod's image."""

    def __init__(self, folder: Path, program: Path):
        self.root, self.image, programs = folder / "host", folder / "image", folder / "bin"
        for made in (self.root / "etc/containerd", self.image, programs):
            made.mkdir(parents=True)
        (self.root / CONFIG).write_text(OWN_3.replace("imports =", "#"))
        for name, script in STANDS_FOR.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}")
            (programs / name).chmod(0o755)
        for name in ("install", "node", "lacewing.service"):
            shutil.copy(DEPLOY / name, self.image / name)
        shutil.copy(program, self.image / "lacewing")
        self.env = {**os.environ, "HOST": str(self.root), "PATH": f"{programs}:{os.environ['PATH']}"}
        self.said = self.root / "systemctl"

    def start(self) -> subprocess.Popen:
        """A pod."""
        self.said.unlink(missing_ok=True)
        return subprocess.Popen([self.image / "node"], env=self.env, start_new_session=True, stdout=subprocess.DEVNULL)

    def told(self) -> list[str]:
        """What systemd was told to do by the last pod."""
        return self.said.read_text().splitlines() if self.said.exists() else []


def end(pod: subprocess.Popen, how: int = signal.SIGKILL) -> None:
    """Ends the whole container, as its runtime does."""
    if pod.poll() is None:
        os.killpg(pod.pid, how)
        pod.wait(30)


class SetUp(Case):
    """A pod that ends half-way through: the next one finds nothing to change, and finishes what was begun."""

    LAST = "start containerd"

    def pod(self, host: Host) -> list[str]:
        """A pod that sets the node up and is then killed."""
        pod = host.start()
        self.addCleanup(end, pod)
        wait_until(lambda: self.LAST in host.told(), "the pod's set-up", 60)
        end(pod)
        return host.told()

    def test_is_finished_by_the_next_pod(self):
        host = Host(self.world.lab.directory("set-up"), PROGRAM)
        for step in ("daemon-reload", "enable", "reload-or-restart", "restart"):
            with self.subTest(step):
                (host.root / CONFIG).write_text(OWN_3.replace("imports =", "#"))
                (host.root / "fail").write_text(step)
                pod = host.start()
                self.assertNotEqual(pod.wait(60), 0)
                (host.root / "fail").unlink()
                told = self.pod(host)
                for expected in ("daemon-reload", "reload-or-restart lacewing", "restart --no-block containerd"):
                    self.assertIn(expected, told)
                # And once only.
                self.assertNotIn("restart --no-block containerd", self.pod(host))


class Pod(Case):
    """The DaemonSet's container ends, is killed and is replaced by one with another release while containers read."""

    def test_nothing_changes_for_containers(self):
        node, folder = self.world.new_node(2), self.world.lab.directory("pod")
        self.host = Host(folder, lacewing())
        # The first pod installs the program; the node's systemd then starts it.
        run(self.host.image / "node", "install", env=self.host.env)
        program = self.host.root / "usr/local/bin/lacewing"
        daemon = node.daemon
        daemon.stop()
        daemon.process.command[0] = str(program)
        daemon.start()
        (self.host.root / "pid").write_text(str(daemon.process.pid))

        image, files = self.world.lazy("python"), folder / "files.json"
        node.containerd.pull(image, "lacewing")
        write_list(self.world.expected("python", 2), files)
        with running(node.containerd, CTR, image, "lacewing") as container:
            with readers(2, Path(f"/proc/{container.pid}/root"), files, 300) as started:
                end(self.pod(), signal.SIGTERM)
                end(self.pod(), signal.SIGKILL)
                before, release = daemon.process.pid, program.stat().st_ino
                with (self.host.image / "lacewing").open("ab") as new:
                    new.write(b"\0")  # another file, and as good a program
                pod = self.pod()
                self.assertNotEqual(program.stat().st_ino, release)
                wait_until(lambda: runs(before, program), "the new release", 60)
                wait_until(lambda: runs(answering(daemon), program), "its worker", 60)
                end(pod, signal.SIGKILL)
                drop_caches()
                read = started.files()
                wait_until(lambda: started.files() > read + 5, "reads after the last pod's end", 60)
                self.assertTrue(started.reading())
                seen = started.results()
            self.assertIn("ready", container.exec(*self.world.images["python"].ready, timeout=120))
        self.assertEqual([error for one in seen for error in one["errors"]], [])
        self.assertTrue(daemon.process.alive())

    def pod(self) -> subprocess.Popen:
        """A pod that has set the node up and follows the unit's log."""
        pod = self.host.start()
        self.addCleanup(end, pod)
        wait_until(lambda: SetUp.LAST in self.host.told(), "the pod's set-up", 60)
        return pod
