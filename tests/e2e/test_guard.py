"""What the daemon gives up: capabilities it does not need, core dumps, new privileges, system calls; and who may speak to it."""

import os
import re
import signal
import subprocess
from pathlib import Path

from cases import Case
from lab.process import CommandFailed, run, wait_until
from test_credentials import PASSWORD, USER, by_provider
from lab.tokens import PrivateRegistry

# capability.h; what the worker needs each for stands in its guard.
KEPT = {"chown": 0, "dac_override": 1, "dac_read_search": 2, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7,
        "net_bind_service": 10, "sys_ptrace": 19, "sys_admin": 21, "sys_nice": 23, "sys_resource": 24, "mknod": 27, "setfcap": 31}
ALLOWED = sum(1 << number for number in KEPT.values())
FILTERED = "2"
# What the kernel gives to nobody, neither a file nor a handler.
CORE = 1


def status_of(path: str) -> dict[str, str]:
    """The fields of a `status` file of /proc."""
    return dict(re.findall(r"(?m)^(\w+):\s*(.*)$", Path(path).read_text()))


class Guard(Case):
    def guarded(self, found: dict[str, str]) -> None:
        for name in ("CapEff", "CapPrm", "CapBnd"):
            self.assertEqual(int(found[name], 16) & ~ALLOWED, 0, (name, found[name]))
        self.assertEqual((int(found["CapInh"], 16), int(found["CapAmb"], 16)), (0, 0))
        self.assertEqual((found["NoNewPrivs"], found["Seccomp"]), ("1", FILTERED))

    def test_all_of_the_worker(self):
        daemon = self.world.lab.daemon()
        worker = daemon.status()["worker_pid"]
        # What is given up is a thread's own: none may have been there before.
        for thread in os.listdir(f"/proc/{worker}/task"):
            self.guarded(status_of(f"/proc/{worker}/task/{thread}/status"))
        self.assertNotIn("going on without", daemon.process.log.read_text())

    def test_what_it_starts(self):
        """A credential provider writes down what it runs with."""
        folder = self.world.lab.directory("guarded")
        door = PrivateRegistry(self.world.registry, USER, PASSWORD)
        self.addCleanup(door.close)
        self.world.lazy("busybox")
        node = self.world.new_node(2, background=False, extra=by_provider(self, folder, door))
        program = folder / "lab-provider"
        program.write_text(program.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\ncat /proc/self/status >{folder}/status\n"))
        image = f"{door.address}/lazy/busybox:1"
        node.containerd.ctr("image", "pull", "--plain-http", "--user", f"{USER}:{PASSWORD}", "--snapshotter", "lacewing", image)
        self.assertTrue(all(layer["lazy"] for layer in node.daemon.status()["layers"]))
        self.guarded(status_of(f"{folder}/status"))

    def test_no_core(self):
        daemon = self.world.lab.daemon()
        worker = daemon.status()["worker_pid"]
        for pid in (daemon.process.pid, worker):
            limits = Path(f"/proc/{pid}/limits").read_text()
            self.assertRegex(limits, re.compile(r"^Max core file size\s+1\s+1\s", re.M))
        # To read its memory takes a debugger's capability, which a process of the same user need not have.
        with self.assertRaises(CommandFailed) as failed:
            run("setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-all", "cat", f"/proc/{worker}/mem")
        self.assertIn("ermission denied", failed.exception.output)
        folder = Path(os.readlink(f"/proc/{worker}/cwd"))
        before = set(folder.glob("core*"))
        os.kill(worker, signal.SIGABRT)
        wait_until(lambda: daemon.workers() not in ([], [worker]), "the next worker")
        self.assertEqual(set(folder.glob("core*")), before)
        self.assertIn("SIGABRT", daemon.process.log.read_text())

    def test_no_core_for_a_handler(self):
        """A handler in core_pattern, as systemd-coredump is one, gets no core of the supervisor, the worker, or what it starts."""
        pattern, folder = Path("/proc/sys/kernel/core_pattern"), self.world.lab.directory("cores")
        handler = folder / "handler"
        handler.write_text(f"#!/bin/sh\ncat >/dev/null; echo $1 >>{folder}/handled\n")
        handler.chmod(0o755)
        daemon = self.world.lab.daemon()
        worker = daemon.status()["worker_pid"]
        before = pattern.read_text()
        self.addCleanup(pattern.write_text, before)
        pattern.write_text(f"|{handler} %P\n")
        others = subprocess.Popen(["sleep", "100"])
        # As a helper of the worker: it has the worker's limits.
        helper = subprocess.Popen(["prlimit", f"--core={CORE}:{CORE}", "sleep", "100"])
        wait_until(lambda: "sleep" in Path(f"/proc/{helper.pid}/comm").read_text(), "the helper")
        for pid in (helper.pid, worker, daemon.process.pid, others.pid):
            os.kill(pid, signal.SIGABRT)
        for child in (others, helper):
            child.wait()
        handled = lambda: (folder / "handled").read_text().split() if (folder / "handled").exists() else []
        wait_until(lambda: str(others.pid) in handled(), "the handler")
        wait_until(lambda: not daemon.process.alive(), "end of the supervisor")
        self.assertEqual(handled(), [str(others.pid)])
        daemon.kill_all()
        daemon.start()

    def test_sockets_are_roots_alone(self):
        daemon = self.world.lab.daemon()
        for socket in (daemon.socket, daemon.http):
            self.assertEqual((socket.stat().st_mode & 0o777, socket.stat().st_uid), (0o600, 0), socket)
