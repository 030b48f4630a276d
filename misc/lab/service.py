"""A service manager as systemd is one to a unit: hears what the service notifies, keeps the descriptors it deposits,
and hands them back at the next start (sd_notify(3), sd_listen_fds(3))."""

import fcntl
import os
import socket
from pathlib import Path

from .process import Process

# The first descriptor that sd_listen_fds(3) knows.
FIRST = 3
# Above all that are handed back.
HIGH = 100


class ServiceManager:
    """Manages one process that exists and does not run."""

    def __init__(self, folder: Path, process: Process):
        self.process, self.command = process, list(process.command)
        path = folder / "notify"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.socket.bind(str(path))
        process.env["NOTIFY_SOCKET"] = str(path)
        self.store: dict[str, int] = {}
        self.states: list[str] = []

    def hear(self) -> list[str]:
        """Takes in what was notified; returns all that were said since the last start, descriptors left out."""
        while True:
            try:
                message, fds, _, _ = socket.recv_fds(self.socket, 4096, 8)
            except BlockingIOError:
                return self.states
            words = dict(line.split("=", 1) for line in message.decode().splitlines())
            if words.get("FDSTORE") == "1" and len(fds) == 1:
                self.keep(words["FDNAME"], fds[0])
            else:
                self.states += [f"{key}={value}" for key, value in words.items()]

    def keep(self, name: str, fd: int) -> None:
        if name in self.store:
            os.close(self.store[name])
        # Far from those that the shell below puts in its place one by one.
        self.store[name] = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, HIGH)
        os.close(fd)

    def prepare_start(self) -> None:
        """Makes the next start of the process hand back what is kept."""
        self.hear()
        self.states = []
        moves = " ".join(f"{FIRST + n}<&{fd}" for n, fd in enumerate(self.store.values()))
        # Only the service's own process may take them: its pid is not known before.
        script = f'export LISTEN_PID=$$; exec {moves}; exec "$@"'
        self.process.command = ["bash", "-c", script, "bash", *self.command]
        self.process.pass_fds = tuple(self.store.values())
        self.process.env["LISTEN_FDS"] = str(len(self.store))
        self.process.env["LISTEN_FDNAMES"] = ":".join(self.store)

    def close(self) -> None:
        self.socket.close()
        for fd in self.store.values():
            os.close(fd)
