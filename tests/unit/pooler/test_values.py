"""`values.dataclass` is the standard library's in all that can be seen, for any class and from its first use on."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import Any, ClassVar

import pytest

from pooler import values


def build(module: Any, frozen: bool, slots: bool) -> type[Any]:
    make = module.dataclass(frozen=frozen, slots=slots)

    class Point:
        """A class with all that ours have."""

        x: int
        y: int = 2
        made: ClassVar[int] = 0
        rest: list[int] = dataclasses.field(default_factory=list, compare=False)

        @property
        def total(self) -> int:
            return self.x + self.y

    Point.__qualname__ = "Point"
    return make(Point)  # type: ignore[no-any-return]


KINDS = [(frozen, slots) for frozen in (False, True) for slots in (False, True)]
both = pytest.mark.parametrize(("frozen", "slots"), KINDS)
USES: dict[str, Any] = {
    "repr": lambda p: repr(p(1)),
    "equal": lambda p: (p(1) == p(1), p(1) == p(2), p(1) == 1, p(1, rest=[1]) == p(1)),
    "hash": lambda p: hash(p(1)),
    "replace": lambda p: repr(dataclasses.replace(p(1), y=5)),
    "asdict": lambda p: dataclasses.asdict(p(1, 2, [3])),
    "fields": lambda p: [f.name for f in dataclasses.fields(p)],
    "set": lambda p: setattr(p(1), "x", 3),
    "delete": lambda p: delattr(p(1), "x"),
    "missing": lambda p: p(),
    "missing, others named": lambda p: p(y=1),
    "unknown": lambda p: p(1, z=2),
    "twice": lambda p: p(1, x=2),
    "too many": lambda p: p(1, 2, [], 4),
    "in any order": lambda p: repr(p(rest=[3], y=2, x=1)),
    "fresh": lambda p: p(1).rest is not p(1).rest,
    "copy": lambda p: repr(copy.copy(p(1))),
    "deep copy": lambda p: repr(copy.deepcopy(p(1, rest=[[2]]))),
    "match": lambda p: p.__match_args__,
    "property": lambda p: p(1).total,
    "types": lambda p: [f.type for f in dataclasses.fields(p)],
    "types later": lambda p: [repr(p(1)), [f.type for f in dataclasses.fields(p)]],
    "annotations": lambda p: (p(1), p.__annotations__)[1],
    "class variable": lambda p: (p.made, "made" in [f.name for f in dataclasses.fields(p)]),
    "bare": lambda p: p.__new__(p) == 1,
}


def outcome(use: Any, kind: type[Any]) -> object:
    try:
        return use(kind)
    except Exception as error:
        return type(error), str(error)


@both
@pytest.mark.parametrize("use", USES)
def test_it_does_what_the_original_does(use: str, frozen: bool, slots: bool) -> None:
    ours, original = build(values, frozen, slots), build(dataclasses, frozen, slots)
    for _ in range(values.FEW + 2):
        assert outcome(USES[use], ours) == outcome(USES[use], original)


@both
def test_a_subclass_has_the_fields_of_both(frozen: bool, slots: bool) -> None:
    base = build(values, frozen, slots)

    @values.dataclass(frozen=frozen, slots=slots)  # type: ignore[literal-required]
    class Longer(base):  # type: ignore[misc, valid-type]
        """And its own."""

        z: int = 0

    assert (Longer(1, z=3).z, Longer(1).y, base(4).x, base(1) == Longer(1)) == (3, 2, 4, False)

    class Plain(base):  # type: ignore[misc, valid-type]
        """Not decorated."""

    assert Plain(7).x == 7


def test_what_a_class_wrote_itself_stays() -> None:
    seen: list[str] = []

    @values.dataclass(slots=True)
    class Own:
        """Of two methods."""

        x: int

        def __post_init__(self) -> None:
            self.x += 1

        def __setattr__(self, name: str, value: object) -> None:
            object.__setattr__(self, name, value)
            seen.append(name)

        def __repr__(self) -> str:
            return "own"

        def __eq__(self, other: object) -> bool:
            return True

    assert (repr(Own(1)), Own(1).x, Own(1) == 5) == ("own", 2, True)
    assert seen == ["x", "x"] * 3


@both
def test_nothing_is_compiled_for_the_first_few(frozen: bool, slots: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sources: list[str] = []

    def compiled(text: str, *rest: Any) -> None:
        sources.append(text)
        exec(text, *rest)

    monkeypatch.setattr(dataclasses, "exec", compiled, raising=False)
    kind = build(values, frozen, slots)
    made = [kind(number) for number in range(values.FEW)]
    assert not sources
    made.append(kind(values.FEW))
    together = len(sources)
    made.append(kind(values.FEW + 1))
    assert any("__init__" in text for text in sources)
    assert len(sources) == together
    assert [point.x for point in made] == list(range(values.FEW + 2))


@both
@pytest.mark.parametrize("use", ["equal", "hash", "fresh", "property", "bare", "set", "delete"])
def test_without_memory_to_compile_it_does_the_same(
    use: str, frozen: bool, slots: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures that were compared for the first time where memory was short could not be had as long as it was."""

    def no_memory(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(values, "_complete", no_memory)
    ours, theirs = (build(module, frozen, slots) for module in (values, dataclasses))
    for _ in range(2 * values.FEW):
        assert outcome(USES[use], ours) == outcome(USES[use], theirs)


@values.dataclass(frozen=True, slots=True)
class Packed:
    """At the top, where pickle finds it."""

    x: int


def test_it_can_be_sent() -> None:
    assert pickle.loads(pickle.dumps(Packed(3))) == Packed(3)
