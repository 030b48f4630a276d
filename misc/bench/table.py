"""Prints results as Markdown and keeps them in the documentation."""

import datetime
import os
import platform
from pathlib import Path

from lab.paths import PROJECT

HEAD = "| row | target | reached | measured |\n|---|---|---|---|"
DOCUMENT = PROJECT / "misc/docs/measurements.md"


def line(row, result) -> str:
    """One row: what was wanted, the figure beside it, and what it was made from."""
    return f"| {row.title} | {row.target} | {result.reached} | {result.detail} |"


def machine() -> str:
    """The day and the machine, as they stand over a table."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 30
    return f"{datetime.date.today()}, Linux {platform.release().split('-')[0]}, {os.cpu_count()} cores, {memory} GiB, ext4"


def replace(command: str, table: str, document: Path = DOCUMENT) -> None:
    """Puts what a command made in place of what it made before, in the document."""
    begin, end = (f"<!-- made by {command}: {word} -->" for word in ("begin", "end"))
    text = document.read_text()
    before, rest = text.split(begin, 1)
    document.write_text(f"{before}{begin}\n{table}\n{end}{rest.split(end, 1)[1]}")


def write(subject, results, rounds: int, options: str = "") -> None:
    """Replaces the table of a run with these options in the document."""
    image = subject.large if options else subject.usual
    facts = (f"{machine()}; image of {image.plain_bytes / 1e6:.0f} MB plain in {len(image.layers)} layers; "
             f"medians of {rounds}, interleaved.")
    table = "\n".join([HEAD, *(line(row, result) for row, result in results)])
    replace(f"misc/bench/run{options}", f"{facts}\n\n{table}")
