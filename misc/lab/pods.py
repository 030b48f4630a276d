"""What pods with user namespaces need beside containerd 2.x: a runc that maps owners of mounts, and a network of the pod's own."""

import json
from pathlib import Path

from .nodes import Containerd
from .paths import CACHE, PROJECT
from .process import run

# A CNI plugin that sets nothing up and says that it did: these pods speak to nobody.
PLUGIN = """#!/bin/sh
cat >/dev/null
case $CNI_COMMAND in
ADD) echo '{"cniVersion":"0.4.0","interfaces":[{"name":"eth0","sandbox":"'"$CNI_NETNS"'"}],
           "ips":[{"version":"4","address":"10.88.0.2/16","interface":0}]}' ;;
VERSION) echo '{"cniVersion":"0.4.0","supportedVersions":["0.4.0"]}' ;;
esac
"""


def runc_bin() -> Path:
    """The folder of a runc with idmapped mounts (1.2 or later), fetched at the first call."""
    target = CACHE / "runc"
    target.mkdir(parents=True, exist_ok=True)
    run(PROJECT / "misc/lab/runc", target)
    return target / "bin"


def with_users_of_their_own(node: Containerd) -> None:
    """Starts containerd 2.x anew so that its pods can have user namespaces (`hostUsers: false`)."""
    runc, networks, plugins = runc_bin(), node.folder / "cni", node.folder / "cni-bin"
    for folder in (networks, plugins):
        folder.mkdir(exist_ok=True)
    (networks / "10-none.conf").write_text(json.dumps({"cniVersion": "0.4.0", "name": "none", "type": "none"}))
    for name in ("none", "loopback"):
        (plugins / name).write_text(PLUGIN)
        (plugins / name).chmod(0o755)
    config = node.folder / "config.toml"
    line = f'conf_dir = "{networks}"\n'
    text = config.read_text()
    assert line in text
    config.write_text(text.replace(line, f'{line}    bin_dirs = ["{plugins}"]\n'))
    node.stop()
    node.process.env["PATH"] = f'{runc}:{node.process.env["PATH"]}'
    node.start()
