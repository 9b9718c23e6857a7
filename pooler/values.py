"""`dataclass`, with the methods compiled when they are first called: a fast start.

The standard library's compiles half a dozen functions for each class, which is two thirds of what loading the pooler
costs, and most classes are not used before the first client has its answer. Here the fields are read at once, and the
methods come from the standard library's own `make_dataclass` when they are first called. The signature that it would
write into a class without a docstring is left out. Type checkers see the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

TOGETHER = (
    ("__init__", "__setattr__", "__delattr__", "__getstate__", "__setstate__"),
    ("__repr__",),
    ("__eq__", "__hash__"),
)
"""Methods that come with the first call of the first of them; of the last ones, with that of either."""

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool = False, slots: bool = False) -> Callable[[type], type]:
        """As dataclasses.dataclass with these arguments."""

        def prepare(given: type) -> type:
            own = set(vars(given)) - {"__hash__" if "__eq__" not in vars(given) else ""}
            given.__doc__ = given.__doc__ or given.__name__
            types = vars(given).get("__annotations__", {})
            given.__annotations__ = {name: _read(text) for name, text in types.items()}
            made = dataclasses.dataclass(init=False, repr=False, eq=False, slots=slots)(given)
            made.__annotations__ = types
            for field in dataclasses.fields(made):
                field.type = types.get(field.name, field.type)
            for name in ("__init__", "__repr__", "__eq__", "__hash__"):
                if name not in own:
                    setattr(made, name, _first_call(made, name, frozen, slots, own))
            if not frozen and "__hash__" not in own:
                made.__hash__ = None  # type: ignore[assignment]
            return made

        return prepare


def _read(annotation: Any) -> Any:
    """Of a text it is asked by regular expressions whether it is one of these; of anything else it is not."""
    return annotation if not isinstance(annotation, str) or "ClassVar" in annotation else object


def _first_call(made: type, name: str, frozen: bool, slots: bool, own: set[str]) -> Callable[..., Any]:
    def method(self: object, *arguments: Any, **named: Any) -> Any:
        (methods,) = (group for group in TOGETHER if name in group)
        _complete(made, methods, frozen, slots, own)
        return getattr(made, name)(self, *arguments, **named)

    return method


def _complete(made: type, methods: tuple[str, ...], frozen: bool, slots: bool, own: set[str]) -> None:
    """Give the class these methods of its twin, but for those that it wrote itself."""
    known = dataclasses.fields(made)
    types = [field.type for field in known]
    fields: list[tuple[str, Any, Any]] = [(field.name, object, field) for field in known]
    after: dict[str, Any] = {"__doc__": made.__doc__}
    if hasattr(made, "__post_init__"):
        after["__post_init__"] = made.__post_init__
    parts: dict[str, Any] = {part: f"__{part}__" in methods for part in ("init", "repr", "eq")}
    twin = dataclasses.make_dataclass(made.__name__, fields, frozen=frozen, slots=slots, namespace=after, **parts)
    for field, text in zip(known, types, strict=True):
        field.type = text
    for name in methods:
        if name in vars(twin) and name not in own:
            method = vars(twin)[name]
            if hasattr(method, "__qualname__"):
                method.__qualname__ = f"{made.__qualname__}.{name}"
            setattr(made, name, method)
