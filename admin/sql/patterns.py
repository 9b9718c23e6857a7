"""LIKE and regular expressions in time proportional to pattern times text, whatever either is.

A visitor of the console chooses both, and a backtracking matcher can be made to run for years on thirty
letters. So LIKE is matched greedily, and a regular expression by keeping the set of states it may be in
(Thompson's construction). Of regular expressions the common part is known: literals, ., classes, groups, |,
*, +, ?, {m,n}, ^, $, \\d \\w \\s and their opposites. The rule: anything else is an error, never a slow
answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

MOST_STATES = 2_000
MOST_STEPS = 2_000_000
"""Characters of a text times parts of a pattern: about a second."""


class PatternError(ValueError):
    """A pattern that cannot be used; the text is fit for the client."""


def _bound(steps: int) -> None:
    if steps > MOST_STEPS:
        raise PatternError("text is too long for this pattern")


# ---- LIKE


@lru_cache(maxsize=64)
def _like_parts(pattern: str, escape: str) -> tuple[str | None, ...]:
    """One entry per character to match: the character, "" for any one (`_`), None for any number (`%`)."""
    parts: list[str | None] = []
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        if sign == escape and escape:
            at += 1
            if at == len(pattern):
                raise PatternError("LIKE pattern must not end with escape character")
            parts.append(pattern[at])
        elif sign == "%":
            if not parts or parts[-1] is not None:
                parts.append(None)
        else:
            parts.append("" if sign == "_" else sign)
        at += 1
    return tuple(parts)


def like(pattern: str, text: str, escape: str = "\\") -> bool:
    """Whether the whole of `text` matches; case counts."""
    parts = _like_parts(pattern, escape)
    _bound(len(text) * len(parts))
    at = place = 0
    star, retry = -1, 0
    while at < len(text):
        part = parts[place] if place < len(parts) else "end"
        if place < len(parts) and part is None:
            star, retry = place, at
            place += 1
        elif place < len(parts) and (part == "" or part == text[at]):
            place, at = place + 1, at + 1
        elif star >= 0:
            retry += 1
            place, at = star + 1, retry
        else:
            return False
    return all(part is None for part in parts[place:])


# ---- regular expressions

Test = Callable[[str], bool]


@dataclass(slots=True)
class _State:
    """`test` consumes a character and leads to the first of `out`; without one all of `out` follow at once,
    under the condition of an `edge` (^ or $) if there is one."""

    test: Test | None = None
    edge: str = ""
    out: list[int] = field(default_factory=list)


Fragment = tuple[int, list[int]]
"""(first state, states whose way out is still open)."""

_CLASSES: dict[str, Test] = {
    "d": str.isdigit,
    "s": str.isspace,
    "w": lambda sign: sign.isalnum() or sign == "_",
}
_NAMED: dict[str, Test] = {
    "alpha": str.isalpha,
    "digit": str.isdigit,
    "alnum": str.isalnum,
    "space": str.isspace,
    "upper": str.isupper,
    "lower": str.islower,
    "punct": lambda sign: sign.isprintable() and not sign.isalnum() and not sign.isspace(),
}
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}


def _opposite(test: Test) -> Test:
    return lambda sign: not test(sign)


class Regex:
    """A compiled expression. Raises PatternError."""

    def __init__(self, pattern: str, *, fold: bool = False) -> None:
        self._pattern = pattern.lower() if fold else pattern
        self._fold = fold
        self._at = 0
        self._states: list[_State] = []
        first, open_ends = self._alternatives()
        if self._at < len(self._pattern):
            raise PatternError("invalid regular expression: parentheses () not balanced")
        self._final = self._new(_State())
        self._close(open_ends, self._final)
        self._first = first

    # ---- building

    def _new(self, state: _State) -> int:
        if len(self._states) >= MOST_STATES:
            raise PatternError("regular expression is too complex")
        self._states.append(state)
        return len(self._states) - 1

    def _close(self, open_ends: list[int], target: int) -> None:
        for end in open_ends:
            self._states[end].out.append(target)

    def _peek(self) -> str:
        return self._pattern[self._at] if self._at < len(self._pattern) else ""

    def _take(self) -> str:
        sign = self._peek()
        self._at += 1
        return sign

    def _alternatives(self, depth: int = 0) -> Fragment:
        if depth > 50:
            raise PatternError("regular expression is too complex")
        first, open_ends = self._sequence(depth)
        while self._peek() == "|":
            self._take()
            other, ends = self._sequence(depth)
            first = self._new(_State(out=[first, other]))
            open_ends = open_ends + ends
        return first, open_ends

    def _sequence(self, depth: int) -> Fragment:
        start = self._new(_State())
        open_ends = [start]
        while self._peek() not in ("", "|", ")"):
            first, ends = self._repeated(depth)
            self._close(open_ends, first)
            open_ends = ends
        return start, open_ends

    def _repeated(self, depth: int) -> Fragment:
        begin = self._at
        fragment = self._atom(depth)
        end = self._at
        while (sign := self._peek()) and sign in "*+?{":
            least, most = self._bounds()
            fragment = self._repeat(fragment, (begin, end), least, most, depth)
            if self._peek() == "?":
                self._take()  # not greedy: the same set of texts
        return fragment

    def _bounds(self) -> tuple[int, int | None]:
        sign = self._take()
        if sign != "{":
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        text, brace, _ = self._pattern[self._at :].partition("}")
        low, comma, high = text.partition(",")
        if not brace or not low.isdecimal() or (high and not high.isdecimal()):
            raise PatternError("invalid regular expression: invalid repetition count(s)")
        self._at += len(text) + 1
        least, most = int(low), int(high) if high else (None if comma else int(low))
        if least > 255 or (most or 0) > 255 or (most is not None and most < least):
            raise PatternError("invalid regular expression: invalid repetition count(s)")
        return least, most

    def _repeat(
        self, fragment: Fragment, source: tuple[int, int], least: int, most: int | None, depth: int
    ) -> Fragment:
        """`least` copies in a row, then a loop or optional ones. The atom is read again for each copy."""
        copies = [fragment, *(self._again(source, depth) for _ in range(max(least, most or 1) - 1))]
        start = self._new(_State())
        open_ends = [start]
        for place, (first, ends) in enumerate(copies):
            if place < least:
                self._close(open_ends, first)
                open_ends = ends
                if most is None and place == least - 1:
                    loop = self._new(_State(out=[first]))
                    self._close(open_ends, loop)
                    return start, [loop]
            elif most is None:
                loop = self._new(_State(out=[first]))
                self._close(open_ends, loop)
                self._close(ends, loop)
                return start, [loop]
            elif place < most:
                choice = self._new(_State(out=[first]))
                self._close(open_ends, choice)
                open_ends = [*ends, choice]
        return start, open_ends

    def _again(self, source: tuple[int, int], depth: int) -> Fragment:
        here, self._at = self._at, source[0]
        fragment = self._atom(depth)
        self._at = here
        return fragment

    def _atom(self, depth: int) -> Fragment:
        sign = self._take()
        match sign:
            case "(":
                return self._group(depth)
            case "[":
                return self._consuming(self._class())
            case ".":
                return self._consuming(lambda _: True)
            case "^" | "$":
                state = self._new(_State(edge=sign))
                return state, [state]
            case "\\":
                return self._consuming(self._escape())
            case "*" | "+" | "?" | "{":
                raise PatternError("invalid regular expression: quantifier operand invalid")
        return self._consuming(_equal(sign))

    def _consuming(self, test: Test) -> Fragment:
        state = self._new(_State(test))
        return state, [state]

    def _group(self, depth: int) -> Fragment:
        if self._pattern.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            raise PatternError("regular expression lookaround is not supported")
        fragment = self._alternatives(depth + 1)
        if self._take() != ")":
            raise PatternError("invalid regular expression: parentheses () not balanced")
        return fragment

    def _escape(self) -> Test:
        sign = self._take()
        if not sign:
            raise PatternError("invalid regular expression: invalid escape \\ sequence")
        if sign in _CLASSES:
            return _CLASSES[sign]
        if sign.lower() in _CLASSES:
            return _opposite(_CLASSES[sign.lower()])
        if sign.isalnum() and sign not in _LETTERS:
            raise PatternError("regular expression escape is not supported")
        return _equal(_LETTERS.get(sign, sign))

    def _class(self) -> Test:
        negated = self._peek() == "^"
        self._at += negated
        tests: list[Test] = []
        while True:
            sign = self._take()
            if not sign:
                raise PatternError("invalid regular expression: brackets [] not balanced")
            if sign == "]" and tests:
                break
            tests.append(self._member(sign))
        members = tuple(tests)
        return lambda sign: any(test(sign) for test in members) is not negated

    def _member(self, sign: str) -> Test:
        if sign == "[" and self._peek() == ":":
            name, colon, _ = self._pattern[self._at + 1 :].partition(":]")
            if not colon or name not in _NAMED:
                raise PatternError("invalid regular expression: invalid character class")
            self._at += len(name) + 3
            return _NAMED[name]
        if sign == "\\":
            return self._escape()
        if self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", ""):
            self._take()
            return _between(sign, self._take())
        return _equal(sign)

    # ---- matching

    def search(self, text: str) -> bool:
        """Whether any part of `text` matches."""
        _bound(len(text) * len(self._states))
        if self._fold:
            text = text.lower()
        current: set[int] = set()
        for at in range(len(text) + 1):
            current = self._follow(current | {self._first}, at, len(text))
            if self._final in current:
                return True
            if at < len(text):
                current = self._step(current, text[at])
        return False

    def _step(self, states: set[int], sign: str) -> set[int]:
        reached: set[int] = set()
        for number in states:
            state = self._states[number]
            if state.test is not None and state.test(sign):
                reached.update(state.out)
        return reached

    def _follow(self, states: set[int], at: int, end: int) -> set[int]:
        """All states reached without consuming anything."""
        reached, todo = set(states), list(states)
        while todo:
            state = self._states[todo.pop()]
            if state.test is not None or (state.edge == "^" and at) or (state.edge == "$" and at != end):
                continue
            for following in state.out:
                if following not in reached:
                    reached.add(following)
                    todo.append(following)
        return reached


def _equal(wanted: str) -> Test:
    return lambda sign: sign == wanted


def _between(low: str, high: str) -> Test:
    return lambda sign: low <= sign <= high


@lru_cache(maxsize=64)
def regex(pattern: str, fold: bool = False) -> Regex:
    return Regex(pattern, fold=fold)
