"""reader.py ROOT LIST SECONDS SEED PROGRESS: reads files of a tree in random order, small and large, by read and by mmap,
and compares what it gets with the list (JSON: path to [size, SHA-256]). The file PROGRESS grows by a byte with each file.
Ends after SECONDS or at SIGTERM with a JSON summary; any error or wrong byte counts. `longest` is what one read or page
fault took at most, in seconds."""

import hashlib
import json
import mmap
import os
import random
import signal
import sys
import time

PIECE = 64 << 10


class Longest:
    """The longest time between `begin` and `end`."""

    def __init__(self):
        self.seconds = 0.0

    def begin(self) -> None:
        self.begun = time.monotonic()

    def end(self) -> None:
        self.seconds = max(self.seconds, time.monotonic() - self.begun)


LONGEST = Longest()


def by_read(path: str, _size: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while True:
            LONGEST.begin()
            piece = file.read(PIECE)
            LONGEST.end()
            if not piece:
                break
            digest.update(piece)
    return digest.hexdigest()


def by_mmap(path: str, size: int) -> str:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), size, prot=mmap.PROT_READ) as mapped:
        # From the end, page by page: faults that no read-ahead foresees.
        for at in range(size - 1, -1, -16 * mmap.PAGESIZE):
            LONGEST.begin()
            mapped[at]
            LONGEST.end()
        return hashlib.sha256(mapped).hexdigest()


def main() -> None:
    root, list_file, seconds, seed = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    progress = os.open(sys.argv[5], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with open(list_file) as file:
        files = sorted(json.load(file).items())
    choice = random.Random(seed)
    end = time.monotonic() + seconds
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    done = {"files": 0, "bytes": 0, "mapped": 0, "errors": []}
    while not stop and time.monotonic() < end and len(done["errors"]) < 20:
        path, (size, expected) = choice.choice(files)
        mapped = size > 0 and choice.random() < 0.5
        try:
            found = (by_mmap if mapped else by_read)(root + path, size)
            if found != expected:
                done["errors"].append(f"{path}: wrong bytes")
            if done["files"] % 50 == 49:
                # Read anew, not from memory. No privilege: the reader's own files.
                with open(root + path, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            done["errors"].append(f"{path}: {error}")
        done["files"] += 1
        done["bytes"] += size
        done["mapped"] += mapped
        os.write(progress, b".")
    print(json.dumps({**done, "longest": LONGEST.seconds}))


if __name__ == "__main__":
    main()
