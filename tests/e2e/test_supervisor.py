"""The supervisor's own death, and a new configuration: containers read on."""

import signal
from pathlib import Path

from cases import Case
from lab.containers import CTR, running
from lab.nodes import Daemon, daemon_config
from lab.process import wait_until
from test_faults import drop_caches, readers, write_list

FILES = 50
"""How many files are read while the daemon is struck, at least."""


class Supervisor(Case):
    def check(self, strike) -> None:
        """Readers of a lazy image see nothing of what `strike` does to the daemon."""
        node = self.world.new_node(2)
        image = self.world.lazy("redis")
        node.containerd.pull(image, "lacewing")
        files = self.world.lab.directory(f"supervisor-{strike.__name__}") / "files.json"
        write_list(self.world.expected("redis", 2), files)
        with running(node.containerd, CTR, image, "lacewing") as container:
            with readers(2, Path(f"/proc/{container.pid}/root"), files, 120) as started:
                strikes = 0
                # Fast strikes need to be more than three to meet this many reads.
                while started.reading() and (strikes < 3 or started.files() <= FILES):
                    strike(node.daemon)
                    strikes += 1
                    drop_caches()
                seen = started.results()
            self.assertIn("ready", container.exec(*self.world.images["redis"].ready))
        self.assertEqual([error for one in seen for error in one["errors"]], [])
        self.assertGreater(sum(one["files"] for one in seen), FILES)

    def test_orphaned_worker_hands_over(self):
        def killed(daemon) -> None:
            workers = daemon.workers()
            daemon.process.kill()
            drop_caches()
            daemon.start()
            # Whoever answers so soon may still be the orphan.
            wait_until(daemon.workers, "the next worker")
            wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "end of the orphan")

        self.check(killed)

    def test_reload_replaces_the_worker(self):
        def reloaded(daemon) -> None:
            before = daemon.workers()
            daemon.process.child.send_signal(signal.SIGHUP)
            wait_until(lambda: daemon.workers() not in ([], before), "the next worker")
            wait_until(daemon.ready, "the next worker's answer")

        self.check(reloaded)


class Log(Case):
    def test_daemon_goes_on_where_its_log_cannot_be_written(self):
        """A disk may be full; then the daemon is the last that should end."""
        daemon = Daemon(self.world.lab.directory("log") / "d", daemon_config(None, 60, False))
        daemon.process.command[:0] = ["sh", "-c", 'exec "$0" "$@" 2>/dev/full']
        daemon.start()
        try:
            daemon.kill_worker()
            wait_until(daemon.ready, "the next worker")
            self.assertTrue(daemon.process.alive())
        finally:
            daemon.stop()
