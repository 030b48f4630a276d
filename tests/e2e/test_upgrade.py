"""A new release takes the old one's place while containers read; one that cannot changes nothing."""

import json
import os
import shutil
import signal
import unittest
from pathlib import Path

from cases import Case, for_each
from lab.containers import CTR, running
from lab.nodes import Daemon
from lab.paths import lacewing
from lab.process import CommandFailed, run, wait_until
from test_faults import drop_caches, readers, write_list

UPGRADES = int(os.environ.get("LACEWING_UPGRADES", "10"))
"""How many releases come after each other. 200 take some minutes."""


def of_its_own(daemon: Daemon) -> Path:
    """Starts a daemon anew from a program file of its own."""
    daemon.stop()
    program = daemon.config.parent / "bin/lacewing"
    program.parent.mkdir()
    shutil.copy(lacewing(), program)
    daemon.process.command[0] = str(program)
    daemon.start()
    return program


def replace(program: Path, content: bytes | None = None) -> None:
    """Puts another file there as a package manager does; without `content`, the same release once more."""
    new = program.with_suffix(".new")
    if content is None:
        shutil.copy(lacewing(), new)
    else:
        new.write_bytes(content)
        new.chmod(0o755)
    os.replace(new, program)


def runs(pid: int, program: Path) -> bool:
    try:
        return os.stat(f"/proc/{pid}/exe").st_ino == program.stat().st_ino
    except FileNotFoundError:
        return False


def answering(daemon: Daemon) -> int:
    """The worker that serves. The supervisor has other children: it asks programs what they can do."""
    try:
        return daemon.status()["worker_pid"]
    except CommandFailed:
        return 0


def upgrade_command(daemon: Daemon, program: Path) -> list:
    return [program, "daemon", "--upgrade", "--root", daemon.root, "--address", daemon.socket, "--config", daemon.config]


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


class Upgrade(Case):
    def test_nobody_notices(self):
        node = self.world.new_node(2)
        daemon, program = node.daemon, of_its_own(node.daemon)
        image = self.world.lazy("python")
        node.containerd.pull(image, "lacewing")
        files = self.world.lab.directory("upgrade") / "files.json"
        write_list(self.world.expected("python", 2), files)
        supervisor = daemon.process.pid
        with running(node.containerd, CTR, image, "lacewing") as container:
            with readers(3, Path(f"/proc/{container.pid}/root"), files, 60 * max(UPGRADES, 10)) as started:
                held = 0
                for round_ in range(UPGRADES):
                    replace(program)
                    drop_caches()
                    if round_ % 2:
                        run(*upgrade_command(daemon, program), timeout=120)
                    else:  # as systemd reloads a unit
                        os.kill(supervisor, signal.SIGHUP)
                        wait_until(lambda: runs(supervisor, program), "the new release", 60)
                        wait_until(lambda: runs(answering(daemon), program), "its worker", 60)
                    self.assertTrue(runs(supervisor, program))
                    held = held or open_files(supervisor)
                self.assertTrue(started.reading())
                seen = started.results()
            self.assertIn("ready", container.exec(*self.world.images["python"].ready, timeout=120))
        self.assertEqual([error for one in seen for error in one["errors"]], [])
        self.assertGreater(sum(one["files"] for one in seen), 20)
        self.assertLessEqual(open_files(supervisor), held, "descriptors are left behind")
        self.assertEqual(daemon.process.log.read_text().count("has taken over; replacing the worker"), UPGRADES)
        print(f"     {UPGRADES} upgrades, {sum(one['files'] for one in seen)} files read, "
              f"longest read {max(one['longest'] for one in seen):.2f} s", flush=True)

    def test_nothing_to_do_is_said(self):
        daemon = self.world.lab.daemon()
        program = of_its_own(daemon)
        with self.assertRaises(CommandFailed) as failed:
            run(*upgrade_command(daemon, program))
        self.assertIn("put the new release there first", failed.exception.output)
        daemon.stop()
        with self.assertRaises(CommandFailed) as failed:
            run(*upgrade_command(daemon, program))
        self.assertIn("no daemon runs", failed.exception.output)


def ability(daemon: Daemon, **changes) -> bytes:
    """A program that says of itself what `changes` say, and would end at once if it were trusted."""
    said = {"release": "9.0.0", "oldest": 1, "newest": 1, "root": str(daemon.root), "address": str(daemon.socket), **changes}
    return f"#!/bin/sh\ncase $* in *--preflight*) echo '{json.dumps(said)}';; *) exit 1;; esac\n".encode()


UNFIT = {
    "of_a_later_protocol": (lambda daemon: ability(daemon, oldest=98, newest=99), "understands hand-overs of version 98 to 99"),
    "of_an_earlier_protocol": (lambda daemon: ability(daemon, oldest=0, newest=0), "understands hand-overs of version 0 to 0"),
    "for_another_root": (lambda daemon: ability(daemon, root="/elsewhere"), "only be changed by a restart"),
    "that_fails": (lambda _: b"#!/bin/sh\nexit 3\n", "exit status: 3"),
    "that_is_no_program": (lambda _: b"\x7fELF and then nothing", "going on as release"),
    "that_speaks_otherwise": (lambda _: b"#!/bin/sh\necho ready\n", "an answer that is none"),
}


@for_each([(name,) for name in UNFIT])
class Unfit(Case):
    """A release that cannot take over: the old one goes on, and says why."""

    def check(self, name: str) -> None:
        content, reason = UNFIT[name]
        daemon = self.world.lab.daemon()
        program = of_its_own(daemon)
        old, worker = program.stat().st_ino, answering(daemon)
        replace(program, content(daemon))
        os.kill(daemon.process.pid, signal.SIGHUP)
        # The reload itself goes on with the old release: another worker of it.
        wait_until(lambda: answering(daemon) not in (0, worker), "the next worker")
        for pid in [daemon.process.pid, answering(daemon)]:
            self.assertEqual(os.stat(f"/proc/{pid}/exe").st_ino, old)
        self.assertIn(reason, daemon.process.log.read_text())


class Broken(Case):
    """A release that passes the questions and dies once it has taken over: the worker serves on until the next start."""

    def test_the_worker_serves_on(self):
        node = self.world.new_node(2, background=False)
        daemon, program = node.daemon, of_its_own(node.daemon)
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        expected = self.world.expected("redis", 2)
        with running(node.containerd, CTR, image, "lacewing") as container:
            root = Path(f"/proc/{container.pid}/root")
            replace(program, ability(daemon))
            os.kill(daemon.process.pid, signal.SIGHUP)
            wait_until(lambda: not daemon.process.alive(), "end of the supervisor")
            self.assertEqual(run("sha256sum", f"{root}/usr/bin/perl").split()[0], expected[b"/usr/bin/perl"].content)
            replace(program)
            daemon.start()
            self.assertIn("ready", container.exec(*self.world.images["redis"].ready))
        self.assertIn("took over from a worker whose supervisor had died", daemon.process.log.read_text())


OLD = os.environ.get("LACEWING_OLD")
"""The program of an earlier release, for tests of both side by side."""


@unittest.skipUnless(OLD, "no $LACEWING_OLD: the program of an earlier release")
class Skew(Case):
    """An earlier release's program beside this one's: up, back and up again under a container that reads, by hand-over and by an
    orphaned worker, on one root."""

    def test_up_and_back(self):
        node = self.world.new_node(2, background=False)
        daemon, program = node.daemon, of_its_own(node.daemon)
        releases = {"old": Path(OLD).read_bytes(), "new": Path(lacewing()).read_bytes()}
        image = self.world.lazy("python")
        node.containerd.pull(image, "lacewing")
        files = self.world.lab.directory("skew") / "files.json"
        write_list(self.world.expected("python", 2), files)
        with running(node.containerd, CTR, image, "lacewing") as container:
            with readers(2, Path(f"/proc/{container.pid}/root"), files, 600) as started:
                for release in ("old", "new", "old", "new"):
                    replace(program, releases[release])
                    drop_caches()
                    os.kill(daemon.process.pid, signal.SIGHUP)
                    wait_until(lambda: runs(daemon.process.pid, program), f"the {release} supervisor", 60)
                    wait_until(lambda: runs(answering(daemon), program), f"the {release} worker", 60)
                for release in ("old", "new"):
                    # The worker is left by a supervisor of the other release, and hands over to this one's.
                    replace(program, releases[release])
                    drop_caches()
                    os.kill(daemon.process.pid, signal.SIGKILL)
                    wait_until(lambda: not daemon.process.alive(), "end of the supervisor")
                    daemon.start()
                    wait_until(lambda: runs(answering(daemon), program), f"the {release} worker", 60)
                self.assertTrue(started.reading())
                seen = started.results()
            self.assertIn("ready", container.exec(*self.world.images["python"].ready, timeout=120))
        self.assertEqual([error for one in seen for error in one["errors"]], [])
        self.assertEqual(daemon.process.log.read_text().count("took over from a worker whose supervisor had died"), 2)
        print(f"     {sum(one['files'] for one in seen)} files read, longest read {max(one['longest'] for one in seen):.2f} s", flush=True)
