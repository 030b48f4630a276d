"""A private registry with tokens of ten seconds: each mechanism of credentials, and secrets that are nowhere to be found."""

import base64
import contextlib
import json
import time
from pathlib import Path

from cases import Case, for_each
from lab import tool
from lab.containers import CTR, running
from lab.process import run
from lab.tokens import LIFE_S, PrivateRegistry
from test_faults import drop_caches

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


def by_docker_config(folder: Path, door: PrivateRegistry) -> str:
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (folder / "config.json").write_text(json.dumps({"auths": {door.address: {"auth": auth}}}))
    return f'[registry]\ndocker_config = "{folder}/config.json"\n'


def by_provider(folder: Path, door: PrivateRegistry) -> str:
    port = door.address.rsplit(":")[-1]
    program = folder / "lab-provider"
    program.write_text(PROVIDER.replace("PORT", port))
    program.chmod(0o755)
    (folder / "providers.yaml").write_text(PROVIDER_CONFIG.replace("PORT", port))
    return (f'[registry]\ncredential_provider_config = "{folder}/providers.yaml"\n'
            f'credential_provider_bin_dir = "{folder}"\n')


def by_image_service(_folder: Path, _door: PrivateRegistry) -> str:
    return ""


HOW = {"docker_config": by_docker_config, "kubelet_provider": by_provider, "image_service": by_image_service}


@for_each([(how,) for how in HOW])
class Private(Case):
    """A lazy pull, a read after the token's end, and no secret in anything that the daemon writes or tells."""

    def check(self, how: str):
        self.world.lazy("redis")
        with contextlib.closing(PrivateRegistry(self.world.registry, USER, PASSWORD)) as door:
            folder = self.world.lab.directory(f"credentials-{how}")
            node = self.world.new_node(2, background=False, extra=HOW[how](folder, door))
            image = f"{door.address}/lazy/redis:1"
            if how == "image_service":
                options = {"env": {"LAB_PULL_AUTH": f"{USER}:{PASSWORD}"}}
                from lab.nodes import client_program
                run(client_program(), "-a", node.daemon.socket, "cri-pull", image, **options)
                namespace = "k8s.io"
            else:
                words = ["image", "pull", "--plain-http", "--user", f"{USER}:{PASSWORD}", "--snapshotter", "lacewing", image]
                node.containerd.ctr(*words)
                namespace = "default"
            self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]))
            with running(node.containerd, CTR, image, "lacewing", namespace) as container:
                self.read_on(door, Path(f"/proc/{container.pid}/root"))
            self.assertEqual(node.daemon.status()["counters"]["read_errors"], 0)
            self.nowhere(node)

    def read_on(self, door: PrivateRegistry, root: Path) -> None:
        """Reads a file now and then for longer than a token lives; each read needs the registry."""
        files = sorted(file for file in (root / "usr").rglob("*") if file.is_file() and not file.is_symlink())
        files = [file for file in files if file.stat().st_size > 200_000]
        issued, end = door.issued, time.monotonic() + LIFE_S + 2
        while time.monotonic() < end and files:
            drop_caches()
            files.pop().read_bytes()
            time.sleep((LIFE_S + 2) / 30)
        # All at once, too: the token is refused that was good a moment ago.
        door.revoke()
        drop_caches()
        for file in files:
            file.read_bytes()
        self.assertGreater(door.issued, issued)

    def nowhere(self, node) -> None:
        """The secret and the proof made of it are in no log, file, status, metrics or dump."""
        proof = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        told = json.dumps(node.daemon.status()) + node.daemon.process.log.read_text(errors="replace")
        for path in ("/metrics", "/debug", "/status", "/api/status"):
            told += run("curl", "-s", "--unix-socket", node.daemon.http, f"http://localhost{path}", check=False)
        for secret in (PASSWORD, proof):
            self.assertNotIn(secret, told)
            found = run("grep", "-rlaF", secret, node.daemon.root, "--exclude-dir=l", "--exclude-dir=data",
                        "--exclude-dir=packs", "--exclude-dir=m", "--exclude-dir=snapshots", check=False)
            self.assertEqual(found.strip(), "")
