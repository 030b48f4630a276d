"""All that a daemon tells of itself, for searches after what it must not tell."""

from pathlib import Path

from lab.nodes import Daemon
from lab.paths import lacewing
from lab.process import run
from lab.web import Local

PAGES = ["/", "/metrics", "/status.json", "/peers.json", "/debug", "/healthz", "/readyz"]


def ask(daemon: Daemon, path: str, method: str = "GET", headers: dict | None = None) -> tuple[int, dict, str]:
    """One request: status, headers by lower-case names, body."""
    connection = Local(daemon.http, timeout=30)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode()
    finally:
        connection.close()


def told(daemon: Daemon) -> dict[str, str]:
    """By where it is told: every page, every command that shows a daemon, the log, and what `ps` shows of its processes."""
    to = ["--address", daemon.socket]
    found = {path: ask(daemon, path)[2] for path in PAGES}
    found["status"] = run(lacewing(), "status", *to)
    found["status --json"] = run(lacewing(), "status", "--json", *to)
    found["top"] = run(lacewing(), "top", "--once", *to, check=False)
    found["doctor"] = run(lacewing(), "doctor", "--root", daemon.root, "--config", daemon.config, *to, check=False)
    found["log"] = daemon.process.log.read_text(errors="replace")
    for pid in (daemon.process.pid, *daemon.workers()):
        for name in ("cmdline", "environ"):
            found[f"{name} of {pid}"] = Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    return found
