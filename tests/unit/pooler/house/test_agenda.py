"""The agenda beside a plain dict: who is due, in which order, and what it holds."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from pooler.house.agenda import SLACK, Agenda

NAMES = st.sampled_from("abcde")
TIMES = st.integers(0, 9).map(float) | st.just(inf)


@given(st.lists(st.tuples(NAMES, TIMES) | TIMES.filter(lambda time: time < inf)))
def test_it_takes_who_is_due_in_the_order_of_time(steps: list[tuple[str, float] | float]) -> None:
    agenda: Agenda[str] = Agenda()
    known: dict[str, float] = {}
    for step in steps:
        if isinstance(step, tuple):
            agenda.put(*step)
            known[step[0]] = step[1]
            continue
        due = {name: time for name, time in known.items() if time <= step}
        taken = []
        while (name := agenda.take(step)) is not None:
            taken.append(known.pop(name))
            due.pop(name)
        assert taken == sorted(taken)
        assert not due
        assert agenda.next == min(known.values(), default=inf)


def test_what_is_put_off_again_and_again_takes_no_more_room() -> None:
    agenda: Agenda[str] = Agenda()
    for time in range(10_000):
        agenda.put("often", 1e6 + time)
        agenda.put("soon", float(time))
        assert agenda.take(time) == "soon"
    assert len(agenda._heap) <= 2 * 2 + SLACK
    assert agenda.take(1e6 + 9_998) is None
    assert agenda.take(1e6 + 9_999) == "often"
