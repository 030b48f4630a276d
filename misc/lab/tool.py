"""The one-shot commands of `lacewing`."""

import json
from pathlib import Path

from .paths import lacewing
from .process import CommandFailed, run


def convert(source: str, target: str, *options: str, **settings) -> dict:
    """Converts and returns the report."""
    return last_json(run(lacewing(), "convert", "--json", *options, source, target, **settings))


def last_json(output: str):
    """The JSON value at the end of an output that may begin with log lines."""
    start = min((at for at in (output.find("\n{"), output.find("\n[")) if at >= 0), default=-1) + 1
    return json.loads(output[0 if output[:1] in "{[" else start:])


def fails(*words, timeout: float = 120) -> CommandFailed:
    """Runs a command that must end with status 1, in time, and returns what it said."""
    try:
        output = run(lacewing(), *words, timeout=timeout)
    except CommandFailed as failure:
        if failure.status != 1 or "panicked" in failure.output:
            raise AssertionError(f"not an orderly failure: {failure}") from failure
        return failure
    raise AssertionError(f"lacewing {' '.join(map(str, words))} did not fail:\n{output}")


def export(reference: str, target: Path) -> list[Path]:
    """Writes each layer's EROFS image and the devices it points to, and returns the images."""
    run(lacewing(), "inspect", reference, "--export", target)
    return sorted(target.glob("*.erofs"))


def devices_of(image: Path) -> list[Path]:
    """The plain devices of an exported EROFS image, in the order of its device table (tags name the blobs)."""
    raw = image.read_bytes()[1024:1024 + 128]
    count, slot = int.from_bytes(raw[86:88], "little"), int.from_bytes(raw[88:90], "little")
    with image.open("rb") as file:
        file.seek(slot * 128)
        table = file.read(count * 128)
    tags = [table[at:at + 64].rstrip(b"\0").decode() for at in range(0, len(table), 128)]
    return [next(image.parent.glob(f"*{tag.removeprefix('sha256:')}*")) for tag in tags]
