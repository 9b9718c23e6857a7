"""The picture of the house in README is the house: every wing stands in it once, those of `pooler` on the floors of the
structure test, and no arrow points up.
"""

from __future__ import annotations

import re

import pytest

from tests import TREE
from tests.unit.test_structure import FLOORS, MODULES, PACKAGES, uses

Floors = list[set[str]]
"""From top to bottom, each with the names of its wings."""


def picture(text: str) -> dict[str, Floors]:
    """Package -> its floors: a line of names, two spaces or more, and what they are."""
    drawn = re.search(r"^## The picture of the house$.*?^```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert drawn
    found: dict[str, Floors] = {}
    for line in drawn[1].splitlines():
        if heading := re.fullmatch(r"(\w+)/", line):
            found[heading[1]] = []
        elif line:
            names = re.fullmatch(r"  (?:↓ |  )((?:\w+ )*\w+)  +\S.*", line)
            assert names, line
            [*_, floors] = found.values()
            floors.append(set(names[1].split()))
    return found


HOUSE = picture((TREE / "README.md").read_text())


def wing(module: str) -> str:
    return module.split(".")[1]


def test_what_is_drawn_is_there_and_once() -> None:
    assert tuple(HOUSE) == PACKAGES
    for package, floors in HOUSE.items():
        drawn = [name for floor in floors for name in floor]
        assert len(drawn) == len(set(drawn))
        assert set(drawn) == {wing(module) for module in MODULES if module.startswith(f"{package}.")}


def test_the_floors_are_those_of_the_structure_test() -> None:
    assert HOUSE["pooler"] == [{wing(name) for name in floor} for floor in reversed(FLOORS)]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_arrow_points_up(package: str) -> None:
    height = {name: -depth for depth, floor in enumerate(HOUSE[package]) for name in floor}
    wrong = [
        f"{module} imports {target}"
        for module in MODULES
        if module.startswith(f"{package}.")
        for target in uses(module)
        if target.startswith(f"{package}.")
        and wing(target) != wing(module)
        and height[wing(target)] >= height[wing(module)]
    ]
    assert not wrong
