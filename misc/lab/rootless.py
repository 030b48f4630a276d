"""An ordinary user's own namespaces, in which a daemon and a containerd run without a capability outside of them."""

import os
import shutil
from pathlib import Path

from .nodes import Containerd, Daemon
from .process import Process, run, wait_until

# Any user that is not root will do.
USER = 1000

# What newuidmap(1) would write for that user: itself as root, and a range of its own for all others.
MAP = f"0 {USER} 1\n1 100000 65535\n"


class UserNamespace:
    """A user and a mount namespace of the user's; `inside` before a command runs it there as the namespace's root."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        user = ["setpriv", f"--reuid={USER}", f"--regid={USER}", "--clear-groups"]
        self.process = Process("namespace", [*user, "unshare", "--user", "--mount", "sleep", "infinity"], folder / "log")

    def start(self) -> None:
        self.process.start()
        place = Path(f"/proc/{self.process.pid}")
        wait_until(lambda: (place / "comm").read_text() == "sleep\n", "the user's namespaces")
        for name in ("uid_map", "gid_map"):
            (place / name).write_text(MAP)
        # containerd's shims have their sockets below /run, whatever containerd's own folders are.
        run(*self.inside, "mount", "-t", "tmpfs", "none", "/run")

    @property
    def inside(self) -> list[str]:
        place = f"/proc/{self.process.pid}/ns"
        return ["nsenter", f"--user={place}/user", f"--mount={place}/mnt", "-S", "0", "-G", "0"]


def confine(part: Daemon | Containerd, folder: Path, namespace: UserNamespace) -> None:
    """Makes a part that was not started yet run in the namespace, as the user, with its folder as its own."""
    if isinstance(part, Daemon):
        # The user need not be able to reach the place where the program was built.
        part.process.command[0] = str(shutil.copy(part.process.command[0], folder / "lacewing"))
    part.process.command[:0] = namespace.inside
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, USER, USER)
