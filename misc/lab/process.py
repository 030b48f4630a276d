"""Processes and mounts: started in the background, waited for, and gone at the end whatever happens."""

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Callable


class CommandFailed(Exception):
    """A command ended with another status than 0; carries its output."""

    def __init__(self, command: list[str], status: int, output: str):
        self.command, self.status, self.output = command, status, output
        super().__init__(f"{' '.join(command)}: exit status {status}\n{output[-4000:]}")


def run(*command, check: bool = True, timeout: float = 600, env: dict | None = None, cwd=None, stdin=None) -> str:
    """Runs a command and returns what it wrote to stdout and stderr; raises CommandFailed unless `check` is off."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=stdin or subprocess.DEVNULL,
        timeout=timeout, env={**os.environ, **(env or {})}, cwd=cwd,
    )
    output = done.stdout.decode(errors="backslashreplace")
    if check and done.returncode != 0:
        raise CommandFailed(words, done.returncode, output)
    return output


def succeeds(*command, **options) -> bool:
    """Whether a command ends with status 0."""
    try:
        run(*command, **options)
        return True
    except (CommandFailed, subprocess.TimeoutExpired):
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30, pause: float = 0.05) -> None:
    """Waits for a condition; TimeoutError names what was waited for."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {seconds} s")
        time.sleep(pause)


class Process:
    """A background process with its own log file and process group."""

    def __init__(self, name: str, command: list, log: Path, env: dict | None = None):
        self.name, self.log, self.command = name, log, [str(word) for word in command]
        self.env = {**os.environ, **(env or {})}
        self.pass_fds: tuple[int, ...] = ()
        self.child: subprocess.Popen | None = None

    def start(self) -> None:
        with self.log.open("ab") as out:
            self.child = subprocess.Popen(
                self.command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, env=self.env, start_new_session=True,
                pass_fds=self.pass_fds,
            )

    @property
    def pid(self) -> int:
        return self.child.pid

    def alive(self) -> bool:
        return self.child is not None and self.child.poll() is None

    def kill(self) -> None:
        """SIGKILL for the process alone, not for its children."""
        if self.alive():
            self.child.kill()
            self.child.wait()

    def stop(self, seconds: float = 15) -> None:
        """SIGTERM, then SIGKILL for whatever does not go."""
        if not self.alive():
            return
        self.child.terminate()
        try:
            self.child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()

    def tail(self, lines: int = 30) -> str:
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def ended(pid: int) -> bool:
    """Whether a process has ended. Where nobody reaps orphans, in a container without an init, it stays in the table."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def mounts_below(folder: Path) -> list[str]:
    """Mount points below a folder, deepest first."""
    with open("/proc/self/mountinfo") as table:
        points = [line.split()[4].encode().decode("unicode_escape") for line in table]
    return sorted((p for p in points if p.startswith(f"{folder}/")), reverse=True)


def unmount_below(folder: Path) -> None:
    for point in mounts_below(folder):
        subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


def unmount_copies(folder: Path) -> None:
    """Unmounts what else shows the file system that is mounted there: containerd leaves id-mapped copies behind at times, and as long
    as there is one, the disk is not given back."""
    if not os.path.ismount(folder):
        return
    device = folder.stat().st_dev
    with open("/proc/self/mountinfo") as table:
        mounts = [line.split()[2:5] for line in table]
    for number, _, point in mounts:
        if number == f"{os.major(device)}:{os.minor(device)}" and point != str(folder):
            subprocess.run(["umount", "-l", point], stderr=subprocess.DEVNULL)


def root_mount(process: Path) -> bytes:
    """The line of a process's mount table that speaks of its root; the others may be copies of ours."""
    lines = (process / "mountinfo").read_bytes().splitlines()
    return next((line for line in lines if line.split()[4] == b"/"), b"")


def processes_using(folder: Path) -> list[int]:
    """Processes whose command line names something below a folder (shims outlive their containerd), and those of containers
    with roots there (which outlive their shim): one that is left keeps the lab's disk, deleted or not."""
    found = []
    needle = os.fsencode(f"{folder}/")
    ours = os.readlink("/proc/self/ns/mnt")
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            process = Path("/proc") / entry
            try:
                contained = os.readlink(process / "ns/mnt") != ours and needle in root_mount(process)
                if contained or needle in (process / "cmdline").read_bytes():
                    found.append(int(entry))
            except OSError:
                pass  # gone meanwhile
    return found


def kill_using(folder: Path) -> None:
    for pid in processes_using(folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
