"""Trees that the program itself shows, over FUSE: with `lacewing mount`, also as an ordinary user.

For the daemon the other tests run both ways: LACEWING_TREES=fuse tests/e2e/run, see misc/test.
"""

import os
import shutil

from cases import Case, for_each
from lab.paths import lacewing
from lab.process import run, wait_until
from lab.walk import differences, walk


@for_each((name,) for name in ["busybox", "edge", "layers-100"])
class MountOverFuse(Case):
    """`lacewing mount --trees fuse` shows what overlayfs shows."""

    def check(self, name: str) -> None:
        target, store = self.world.lab.directory(f"trees-{name}"), self.world.lab.directory(f"trees-store-{name}")
        run(lacewing(), "mount", "--daemonize", "--trees", "fuse", "--store", store, self.world.lazy(name), target)
        try:
            self.assert_same(differences(self.world.expected(name, 2), walk(target), self.world.since))
        finally:
            run("umount", target)
        wait_until(lambda: str(store) not in run("cat", "/proc/self/mountinfo"), "the mounts' end")


class MountRootless(Case):
    """In a user namespace of an ordinary user, who has no capability outside of it."""

    def test_busybox(self):
        home, target = self.world.lab.directory("rootless-home"), self.world.lab.directory("rootless-mount")
        program = home / "lacewing"
        shutil.copy(lacewing(), program)
        for path in (home, target):
            os.chown(path, 1000, 1000)
        # As udev makes it everywhere.
        os.chmod("/dev/fuse", 0o666)
        script = ('"$0" mount --daemonize "$1" "$2" && cd "$2" && find . -mindepth 1 -printf "%P\\n" && '
                  'sha256sum bin/busybox >&2; cd /; umount "$2"')
        user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "env", "-i", f"HOME={home}", f"PATH={os.environ['PATH']}"]
        output = run(*user, "unshare", "-Urm", "bash", "-c", script, program, self.world.lazy("busybox"), target)
        expected = self.world.expected("busybox", 2)
        names = {os.fsdecode(path[1:]) for path in expected if path != b"/"}
        self.assertEqual(names - set(output.splitlines()), set())
        self.assertIn(expected[b"/bin/busybox"].content, output)
        self.assertTrue((home / ".local/share/lacewing/mount").is_dir())
