"""mount(2) itself: mount(8) puts a loop device under an EROFS image and refuses regular files as its devices."""

import contextlib
import ctypes
import os
from pathlib import Path

MS_RDONLY = 1
MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@contextlib.contextmanager
def erofs(image: Path, devices: list[Path], target: Path):
    """An EROFS image over plain device files, mounted read-only by the kernel."""
    target.mkdir(parents=True, exist_ok=True)
    options = ",".join(f"device={device}" for device in devices)
    _checked(_libc.mount(os.fsencode(image), os.fsencode(target), b"erofs", MS_RDONLY, os.fsencode(options)),
             f"mount -t erofs -o {options} {image}")
    try:
        yield target
    finally:
        _checked(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")
