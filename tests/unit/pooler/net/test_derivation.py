"""Keys from passwords: what takes long is done in a thread, once for all who ask, and never for a stranger's sake."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pooler.net import derivation, scram
from pooler.net.derivation import Memory, Work, fits
from pooler.net.scram import Keys, derive_keys
from tests.fixtures.waiting import until
from tests.unit.pairs import run

QUICK, LONG = Work("secret", b"salt", 4096), Work("secret", b"salt", 20_000)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Work, bool]]:
    """Each work that is done, and whether the event loop's thread did it."""
    seen: list[tuple[Work, bool]] = []

    def derive(password: str, salt: bytes, iterations: int) -> Keys:
        seen.append((Work(password, salt, iterations), threading.current_thread() is threading.main_thread()))
        return derive_keys(password, salt, 1)

    monkeypatch.setattr(derivation, "derive_keys", derive)
    return seen


def test_what_is_quick_is_done_at_once_and_remembered(done: list[tuple[Work, bool]]) -> None:
    async def main() -> None:
        memory = Memory()
        assert memory.recall(QUICK) is None
        keys = await memory.derive(QUICK)
        assert memory.recall(QUICK) is await memory.derive(QUICK) is keys

    run(main())
    assert done == [(QUICK, True)]


@pytest.mark.parametrize("work", [LONG, Work("é" * 1000, b"salt", 1)])
def test_what_is_long_is_done_in_a_thread_for_all_who_ask(done: list[tuple[Work, bool]], work: Work) -> None:
    async def main() -> None:
        memory = Memory()
        asked = [asyncio.create_task(memory.derive(work)) for _ in range(5)]
        await asyncio.sleep(0)
        asked[0].cancel()
        first, *others = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, asyncio.CancelledError)
        assert others == [memory.recall(work)] * 4

    run(main())
    assert done == [(work, False)]


def test_what_will_be_needed_is_prepared_beside_the_loop(done: list[tuple[Work, bool]]) -> None:
    memory = Memory()
    works = [Work(f"password {number}", b"salt", 4096) for number in range(20)]
    memory.prepare(works)
    until(lambda: all(memory.recall(work) for work in works))
    memory.prepare(works)
    assert done == [(work, False) for work in works]


def test_what_is_remembered_is_bounded(done: list[tuple[Work, bool]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(derivation, "REMEMBERED", 3)

    async def main() -> list[Keys | None]:
        memory = Memory()
        works = [Work("secret", b"%d" % number, 10) for number in range(5)]
        for work in works:
            await memory.derive(work)
        return [memory.recall(work) for work in works]

    assert [keys is not None for keys in run(main())] == [False, False, True, True, True]


def test_a_guess_is_judged_in_a_thread_and_not_remembered(done: list[tuple[Work, bool]]) -> None:
    verifier = scram.verifier(derive_keys("secret", b"salt", 1), b"salt", 4096)
    assert [run(fits("secret", verifier)) for _ in range(2)] == [True, True]
    assert not run(fits("Secret", verifier))
    assert [own for _, own in done] == [False] * 3


def test_a_verifier_that_nobody_can_judge(done: list[tuple[Work, bool]]) -> None:
    """Whoever may change a password in PostgreSQL can give itself a verifier of any iteration count."""
    verifier = scram.verifier(derive_keys("secret", b"salt", 1), b"salt", 2_000_000_000)
    assert not run(fits("secret", verifier))
    assert not done


def test_with_no_thread_to_be_had_each_is_derived_when_it_is_needed(
    done: list[tuple[Work, bool]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    memory = Memory()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none_left)
        memory.prepare([QUICK, LONG])
    run(memory.derive(QUICK))
    assert done == [(QUICK, True)]


def test_work_that_failed_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Work] = []

    def derive(password: str, salt: bytes, iterations: int) -> Keys:
        tried.append(Work(password, salt, iterations))
        if len(tried) == 1:
            raise MemoryError
        return derive_keys(password, salt, 1)

    monkeypatch.setattr(derivation, "derive_keys", derive)

    async def main() -> None:
        memory = Memory()
        with pytest.raises(MemoryError):
            await memory.derive(LONG)
        assert memory.recall(LONG) is None
        assert await memory.derive(LONG) is memory.recall(LONG)

    run(main())
    assert tried == [LONG, LONG]
