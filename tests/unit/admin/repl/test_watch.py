"""\\watch: what it takes."""

from __future__ import annotations

import pytest

from admin.repl import watch
from admin.repl.session import Trouble
from tests.unit.repl_console import Console, say, session


@pytest.mark.parametrize(
    ("argument", "plan"),
    [
        ("", watch.Plan()),
        ("0.5", watch.Plan(0.5)),
        ("delta", watch.Plan(delta=True)),
        ("5 delta c=3", watch.Plan(5, 3, True)),
        ("i=1 c=2", watch.Plan(1, 2)),
    ],
)
def test_plan(argument: str, plan: watch.Plan) -> None:
    assert watch.plan(argument) == plan


@pytest.mark.parametrize("argument", ["x", "0", "-1", "1e9", "nan", "c=x", "c=-1", "q=1", "1 2 x"])
def test_what_watch_does_not_take(argument: str) -> None:
    with pytest.raises(watch.BadPlan):
        watch.plan(argument)


def test_watch_repeats_only_what_reads(console: Console) -> None:
    made, out = session(console)
    say(made, "SHOW VERSION \\watch 0.1 c=3")
    assert console.asked == ["SHOW VERSION"] * 3
    assert out.getvalue().count("every 0.1 s: SHOW VERSION") == 3
    with pytest.raises(Trouble, match="only what reads"):
        say(made, "RELOAD \\watch 1")
    assert console.asked == ["SHOW VERSION"] * 3
