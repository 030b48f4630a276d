"""A private registry with tokens of ten seconds: each mechanism of credentials, and secrets that are nowhere to be found."""

import base64
import contextlib
import json
import os
import socketserver
import threading
import time
from pathlib import Path

from cases import Case, for_each
from lab.containers import CRI, CTR, running
from lab.kubernetes import ACCOUNT, NAMESPACE, TOKEN, ApiServer
from lab.nodes import client_program
from lab.process import run, succeeds, wait_until
from lab.tokens import LIFE_S, PrivateRegistry
from telling import told
from test_faults import drop_caches
from world import Node

USER, PASSWORD = "operator", "planted-secret-9f3b7c"
PROVIDER = f"""#!/bin/sh
cat > /dev/null
echo '{{"kind":"CredentialProviderResponse","apiVersion":"credentialprovider.kubelet.k8s.io/v1","cacheKeyType":"Registry",
"auth":{{"127.0.0.1:PORT":{{"username":"{USER}","password":"{PASSWORD}"}}}}}}'
"""
PROVIDER_CONFIG = """apiVersion: kubelet.config.k8s.io/v1
kind: CredentialProviderConfig
providers:
  - name: lab-provider
    apiVersion: credentialprovider.kubelet.k8s.io/v1
    matchImages: ["127.0.0.1:PORT"]
    defaultCacheDuration: "0s"
"""


def docker_config(door: PrivateRegistry) -> dict:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    return {"auths": {door.address: {"auth": auth}}}


def by_docker_config(case: Case, folder: Path, door: PrivateRegistry) -> str:
    (folder / "config.json").write_text(json.dumps(docker_config(door)))
    return f'[registry]\ndocker_config = "{folder}/config.json"\n'


def by_credential_helper(case: Case, folder: Path, door: PrivateRegistry) -> str:
    """docker's own kind of program, found in PATH: see `ENVIRONMENT`."""
    program = folder / "docker-credential-lab"
    answer = json.dumps({"ServerURL": door.address, "Username": USER, "Secret": PASSWORD})
    program.write_text(f"#!/bin/sh\n[ \"$1 $(cat)\" = 'get {door.address}' ] && echo '{answer}'\n")
    program.chmod(0o755)
    (folder / "config.json").write_text(json.dumps({"credHelpers": {door.address: "lab"}}))
    return f'[registry]\ndocker_config = "{folder}/config.json"\n'


def by_provider(case: Case, folder: Path, door: PrivateRegistry) -> str:
    port = door.address.rsplit(":")[-1]
    program = folder / "lab-provider"
    program.write_text(PROVIDER.replace("PORT", port))
    program.chmod(0o755)
    (folder / "providers.yaml").write_text(PROVIDER_CONFIG.replace("PORT", port))
    return (f'[registry]\ncredential_provider_config = "{folder}/providers.yaml"\n'
            f'credential_provider_bin_dir = "{folder}"\n')


def by_image_service(case: Case, folder: Path, door: PrivateRegistry) -> str:
    return ""


def by_helper_socket(case: Case, folder: Path, door: PrivateRegistry) -> str:
    """A program that listens, and answers each question anew."""
    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            question = self.rfile.read()
            if not question:
                return  # `doctor` looks whether somebody is there
            asked = json.loads(question)
            auth = {door.address: {"username": USER, "password": PASSWORD}} if asked["image"].startswith(door.address) else {}
            self.wfile.write(json.dumps({"kind": "CredentialProviderResponse", "apiVersion": asked["apiVersion"],
                                         "cacheKeyType": "Registry", "auth": auth}).encode())

    server = socketserver.ThreadingUnixStreamServer(str(folder / "helper"), Handler)
    case.addCleanup(server.server_close)
    case.addCleanup(server.shutdown)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f'[registry]\ncredential_socket = "{folder}/helper"\n'


def by_service_account(case: Case, folder: Path, door: PrivateRegistry) -> str:
    api = ApiServer(folder, docker_config(door))
    case.addCleanup(api.close)
    return (f'[kubernetes]\nserver = "{api.url}"\nca_file = "{api.ca}"\ntoken_file = "{api.token}"\n'
            f'service_accounts = ["{NAMESPACE}/{ACCOUNT}"]\n')


def by_sealed_file(case: Case, folder: Path, door: PrivateRegistry) -> str:
    key = folder / "key"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    return f'[registry]\nseal_key_file = "{key}"\n'


HOW = {"docker_config": by_docker_config, "credential_helper": by_credential_helper, "kubelet_provider": by_provider,
       "image_service": by_image_service, "image_service_of_containerd_1": by_image_service, "helper_socket": by_helper_socket, "service_account": by_service_account, "sealed": by_sealed_file}
# These learn from pulls, so kubelet's pulls go through them, and what runs is a pod.
LEARN = ["image_service", "image_service_of_containerd_1", "sealed"]


def pull_through_daemon(node, image: str) -> None:
    """As kubelet does that is pointed to the daemon's image service."""
    run(client_program(), "-a", node.daemon.socket, "cri-pull", image, env={"LAB_PULL_AUTH": f"{USER}:{PASSWORD}"})


# A row's nodes wait for the ends of their tokens together.
@for_each([("docker_config", "credential_helper"), ("kubelet_provider",), ("image_service", "image_service_of_containerd_1"),
           ("helper_socket", "service_account", "sealed")])
class Private(Case):
    """A lazy pull, a read after the token's end, and no secret in anything that the daemon writes or tells."""

    def check(self, *hows: str):
        self.world.lazy("redis")
        with contextlib.ExitStack() as stack:
            doors, nodes, roots = [], [], []
            for how in hows:
                door = stack.enter_context(contextlib.closing(PrivateRegistry(self.world.registry, USER, PASSWORD)))
                node = self.node(how, door)
                doors.append(door)
                nodes.append(node)
                roots.append(stack.enter_context(self.container(how, node, f"{door.address}/lazy/redis:1")))
                if how == "sealed":
                    # The next worker has it from the disk.
                    wait_until((node.daemon.root / "credentials.sealed").exists, "the sealed file")
                    node.daemon.kill_worker()
                    wait_until(node.daemon.ready, "the next worker")
                    door.revoke()
            self.read_on(doors, roots)
            for node in nodes:
                self.assertEqual(node.daemon.status()["counters"]["read_errors"], 0)
                self.nowhere(node)

    def node(self, how: str, door: PrivateRegistry) -> Node:
        folder = self.world.lab.directory(f"credentials-{how}")
        generation = 1 if how.endswith("containerd_1") else 2
        node = self.world.new_node(generation, background=False, extra=HOW[how](self, folder, door))
        if how == "credential_helper":
            node.daemon.stop()
            node.daemon.process.env["PATH"] = f"{folder}:{os.environ['PATH']}"
            node.daemon.start()
        return node

    @contextlib.contextmanager
    def container(self, how: str, node, image: str):
        """Pulls and starts; the container's root."""
        if how in LEARN:
            pull_through_daemon(node, image)
        else:
            words = ["image", "pull", "--plain-http", "--user", f"{USER}:{PASSWORD}", "--snapshotter", "lacewing", image]
            node.containerd.ctr(*words)
        self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]))
        with running(node.containerd, CRI if how in LEARN else CTR, image, "lacewing") as started:
            yield Path(f"/proc/{started.pid}/root")

    def read_on(self, doors: list[PrivateRegistry], roots: list[Path]) -> None:
        """Reads a file now and then for longer than a token lives; each read needs the registry."""
        files = [sorted(file for file in (root / "usr").rglob("*") if file.is_file() and not file.is_symlink()) for root in roots]
        files = [[file for file in of_one if file.stat().st_size > 200_000] for of_one in files]
        issued, end = [door.issued for door in doors], time.monotonic() + LIFE_S + 2
        while time.monotonic() < end and all(files):
            drop_caches()
            for of_one in files:
                of_one.pop().read_bytes()
            time.sleep((LIFE_S + 2) / 30)
        # All at once, too: the token is refused that was good a moment ago.
        for door in doors:
            door.revoke()
        drop_caches()
        for file in [file for of_one in files for file in of_one[:10]]:
            file.read_bytes()
        for door, before in zip(doors, issued):
            self.assertGreater(door.issued, before)

    def nowhere(self, node) -> None:
        """The secret and the proof made of it are in no log, file, status, metrics or dump."""
        proof = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        for secret in (PASSWORD, proof, TOKEN):
            for where, what in told(node.daemon).items():
                self.assertNotIn(secret, what, where)
            found = run("grep", "-rlaF", secret, node.daemon.root, "--exclude-dir=l", "--exclude-dir=data",
                        "--exclude-dir=packs", "--exclude-dir=m", "--exclude-dir=snapshots", check=False)
            self.assertEqual(found.strip(), "")


class Unsealed(Case):
    def test_the_next_worker_does_not_know_what_was_in_memory(self):
        self.world.lazy("redis")
        with contextlib.closing(PrivateRegistry(self.world.registry, USER, PASSWORD)) as door:
            node = self.world.new_node(2, background=False, read_timeout_s=2)
            image = f"{door.address}/lazy/redis:1"
            pull_through_daemon(node, image)
            with running(node.containerd, CTR, image, "lacewing", "k8s.io") as container:
                node.daemon.kill_worker()
                wait_until(node.daemon.ready, "the next worker")
                file = f"/proc/{container.pid}/root/usr/bin/perl"
                self.assertFalse(succeeds("cat", file, timeout=60))
                # kubelet pulls again, and the same read succeeds.
                pull_through_daemon(node, image)
                run("sha256sum", file, timeout=60)
            self.assertFalse((node.daemon.root / "credentials.sealed").exists())

    def test_a_key_that_others_may_read(self):
        """Nothing is sealed with it; everything else goes on."""
        key = self.world.lab.directory("open") / "key"
        key.write_bytes(os.urandom(32))
        key.chmod(0o644)
        node = self.world.new_node(2, extra=f'[registry]\nseal_key_file = "{key}"\n')
        self.assertIn("others may use it too; chmod 600 it", node.daemon.process.log.read_text())
        with contextlib.closing(PrivateRegistry(self.world.registry, USER, PASSWORD)) as door:
            self.world.lazy("redis")
            pull_through_daemon(node, f"{door.address}/lazy/redis:1")
        self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]))
        self.assertFalse((node.daemon.root / "credentials.sealed").exists())
