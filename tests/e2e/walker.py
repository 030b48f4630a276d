"""walker.py ROOT SECONDS PROGRESS: walks a tree again and again: names, attributes, targets of symlinks, xattrs. The file
PROGRESS grows by a byte with each walk. Ends after SECONDS or at SIGTERM with a JSON summary; any error, and any walk that
saw something else than the first, counts."""

import hashlib
import json
import os
import signal
import stat
import sys
import time


def seen(path: str) -> bytes:
    info = os.lstat(path)
    facts = [path, info.st_mode, info.st_ino, info.st_nlink, info.st_uid, info.st_gid, info.st_rdev, info.st_size, info.st_mtime_ns]
    if stat.S_ISLNK(info.st_mode):
        facts.append(os.readlink(path))
    for name in sorted(os.listxattr(path, follow_symlinks=False)):
        facts += [name, os.getxattr(path, name, follow_symlinks=False)]
    return repr(facts).encode()


def walk(root: str) -> tuple[str, int]:
    """A digest of all that is seen, and how many entries that were."""
    digest, count, pending = hashlib.sha256(), 0, [root]
    while pending:
        path = pending.pop()
        digest.update(seen(path))
        count += 1
        if stat.S_ISDIR(os.lstat(path).st_mode):
            pending += sorted(os.path.join(path, name) for name in os.listdir(path))
    return digest.hexdigest(), count


def main() -> None:
    root, seconds = sys.argv[1], float(sys.argv[2])
    progress = os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    end = time.monotonic() + seconds
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    first, done = None, {"walks": 0, "entries": 0, "errors": []}
    while not stop and time.monotonic() < end and len(done["errors"]) < 20:
        try:
            found, count = walk(root)
            first = first or found
            if found != first:
                done["errors"].append(f"walk {done['walks']} saw something else than the first")
            done["entries"] += count
        except OSError as error:
            done["errors"].append(str(error))
        done["walks"] += 1
        os.write(progress, b".")
    print(json.dumps(done))


if __name__ == "__main__":
    main()
