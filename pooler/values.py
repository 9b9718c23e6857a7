"""`dataclass`, with the methods compiled when they are first called: a fast start.

The standard library's compiles half a dozen functions for each class, which is two thirds of what loading the pooler
costs, and most classes are not used before the first client has its answer. Here the fields are read at once, and the
methods come from the standard library's own `make_dataclass` with the first instance. Type checkers see the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

METHODS = ("__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__getstate__", "__setstate__")
FIRST = ("__init__", "__repr__", "__eq__", "__hash__")
"""Those that may be called before there are others: on what was made by `__new__` alone, too."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False) -> Callable[[type], type]:
        """As dataclasses.dataclass with these arguments."""

        def prepare(given: type) -> type:
            own = set(vars(given)) - {"__hash__" if "__eq__" not in vars(given) else ""}
            made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(given)
            for name in FIRST:
                if name not in own:
                    setattr(made, name, _first_call(made, name, frozen, slots, own))
            return made

        return prepare


def _first_call(made: type, name: str, frozen: bool, slots: bool, own: set[str]) -> Callable[..., Any]:
    def method(self: object, *arguments: Any, **named: Any) -> Any:
        _complete(made, frozen, slots, own)
        return getattr(made, name)(self, *arguments, **named)

    return method


def _complete(made: type, frozen: bool, slots: bool, own: set[str]) -> None:
    """Give the class the methods of its twin, but for those that it wrote itself."""
    fields = [(field.name, field.type, field) for field in dataclasses.fields(made)]
    after = {"__post_init__": made.__post_init__} if hasattr(made, "__post_init__") else {}
    twin = dataclasses.make_dataclass(made.__name__, fields, frozen=frozen, slots=slots, namespace=after)
    for name in METHODS:
        if name in vars(twin) and name not in own:
            method = vars(twin)[name]
            if hasattr(method, "__qualname__"):
                method.__qualname__ = f"{made.__qualname__}.{name}"
            setattr(made, name, method)
