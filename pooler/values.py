"""`dataclass`, with the methods compiled when they are first called: a fast start.

The standard library's compiles half a dozen functions for each class, which is two thirds of what loading the pooler
costs, and most classes are not used before the first client has its answer, or once or twice. Here the fields are read
at once, the first few instances are filled without compiled code, and the methods come from the standard library's own
`make_dataclass` when they are first called, `__init__` when it is called often. The signature that it would write into
a class without a docstring is left out. Type checkers see the original.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

TOGETHER = (("__init__",), ("__repr__",), ("__eq__", "__hash__"))
"""Methods that come with the first call of either."""
FEW = 20
"""Instances for which `__init__` is not compiled: that takes as long as making a hundred without."""

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
            for name, method in _frozen(made, slots).items() if frozen else ():
                if name not in own:
                    setattr(made, name, method)
            return made

        return prepare


def _read(annotation: Any) -> Any:
    """Of a text it is asked by regular expressions whether it is one of these; of anything else it is not."""
    return annotation if not isinstance(annotation, str) or "ClassVar" in annotation else object


def _first_call(made: type, name: str, frozen: bool, slots: bool, own: set[str]) -> Callable[..., Any]:
    def method(self: object, *arguments: Any, **named: Any) -> Any:
        if name == "__eq__" and arguments[0].__class__ is not self.__class__:
            return NotImplemented
        (methods,) = (group for group in TOGETHER if name in group)
        try:
            _complete(made, methods, frozen, slots, own)
        except MemoryError:
            if name not in PLAIN:
                raise
            return PLAIN[name](self, *arguments)
        return getattr(made, name)(self, *arguments, **named)

    return method if name != "__init__" else _fill(made, method, object.__setattr__ if frozen else setattr)


def _fill(made: type, compiled: Callable[..., None], put: Callable[[object, str, Any], None]) -> Callable[..., None]:
    """`__init__` for the first few; `compiled` is for all others, and for what it does not know or has to refuse."""
    left = FEW

    def method(self: Any, /, *arguments: Any, **named: Any) -> None:
        nonlocal left
        left -= 1
        known = dataclasses.fields(made)
        names = [field.name for field in known if field.init and not field.kw_only]
        needed = {field.name for field in known if field.default is field.default_factory is dataclasses.MISSING}
        values = dict(zip(names, arguments, strict=False)) | named
        whole = len(values) == len(arguments) + len(named) and needed <= values.keys() <= set(names)
        if not whole or len(names) < len(known):
            compiled(self, *arguments, **named)
            return
        if left < 0:
            with suppress(MemoryError):
                compiled(self, *arguments, **named)
                return
        for field in known:
            if field.name in values:
                put(self, field.name, values[field.name])
            elif field.default_factory is not dataclasses.MISSING:
                put(self, field.name, field.default_factory())
            else:
                put(self, field.name, field.default)
        if hasattr(self, "__post_init__"):
            self.__post_init__()

    return method


def _compared(self: Any) -> tuple[Any, ...]:
    return tuple([getattr(self, field.name) for field in dataclasses.fields(self) if field.compare])


PLAIN: dict[str, Callable[..., Any]] = {
    "__eq__": lambda self, other: _compared(self) == _compared(other),
    "__hash__": lambda self: hash(_compared(self)),
}
"""Where there is no memory to compile what is called: a round that needs it would fail each time, the next one too."""


def _frozen(made: type, slots: bool) -> dict[str, Callable[..., Any]]:
    """What refuses to change an instance; with slots, what copies and pickles it all the same."""

    def refused(self: object, name: str) -> bool:
        return type(self) is made or name in {field.name for field in dataclasses.fields(made)}

    def set_attribute(self: object, name: str, value: object) -> None:
        if refused(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")
        object.__setattr__(self, name, value)

    def delete_attribute(self: object, name: str) -> None:
        if refused(self, name):
            raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
        object.__delattr__(self, name)

    def state(self: Any) -> list[Any]:
        return [getattr(self, field.name) for field in dataclasses.fields(self)]

    def set_state(self: Any, values: list[Any]) -> None:
        for field, value in zip(dataclasses.fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    methods: dict[str, Callable[..., Any]] = {"__setattr__": set_attribute, "__delattr__": delete_attribute}
    return methods | ({"__getstate__": state, "__setstate__": set_state} if slots else {})


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
