"""Test cases made from tables: one named test per row."""

import re
import unittest
from typing import Callable, Iterable

from world import World, world


class Case(unittest.TestCase):
    """A test that uses the shared world."""

    maxDiff = None

    @property
    def world(self) -> World:
        return world()

    def setUp(self) -> None:
        # A run would otherwise need room for all that its tests ever made.
        self.addCleanup(self.world.lab.clear)

    def assert_same(self, differences: list[str]) -> None:
        if differences:
            self.fail(f"{len(differences)} differences\n" + "\n".join(differences[:40]))


def for_each(rows: Iterable[tuple]) -> Callable:
    """Class decorator: `check(self, *row)` becomes a test per row, named by the row's words."""
    def decorate(case: type) -> type:
        for row in rows:
            name = "_".join(re.sub(r"\W+", "_", str(part)) for part in row)
            setattr(case, f"test_{name}", lambda self, row=row: self.check(*row))
        return case
    return decorate
