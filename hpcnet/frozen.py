# SPDX-License-Identifier: Apache-2.0
"""Frozen dataclasses that cost a hook next to nothing to define.

``dataclasses.dataclass`` imports ``inspect`` and compiles six functions for each class: 15 ms of every Prolog
and Epilog, which have two dozen of them and make a few objects. To mypy and to the functions of ``dataclasses``
(``fields``, ``asdict``, ``replace``), which are imported when first needed, a class under :func:`frozen` looks the
same.

    @frozen
    class Link:
        index: int
        alias: str = ""

    replace(Link(3), alias="x") == Link(3, "x")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

_Class = TypeVar("_Class")
_Object = TypeVar("_Object")

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: bool) -> Any:
        """Only for type checkers (PEP 681)."""
        return lambda function: function


@dataclass_transform(frozen_default=True)
def frozen(cls: type[_Class]) -> type[_Class]:
    """A class of annotated fields as ``dataclass(frozen=True)`` makes it.

    Fields of a base class are not taken over, and defaults are shared by all objects: nothing that changes.
    """
    names = tuple(name for name, kind in cls.__annotations__.items() if not kind.startswith("ClassVar"))
    members: dict[str, Any] = {
        "_fields": names,
        "_defaults": {name: cls.__dict__[name] for name in names if name in cls.__dict__},
        "__init__": _init,
        "__eq__": _equal,
        "__hash__": _hash,
        "__repr__": _repr,
        "__setattr__": _refuse,
        "__delattr__": _refuse,
        "__match_args__": names,
        "__dataclass_fields__": _Fields(),
    }
    for name, member in members.items():
        setattr(cls, name, member)
    return cls


def replace(old: _Object, **changes: Any) -> _Object:
    """As ``dataclasses.replace``, of an object of a frozen class."""
    return type(old)(**{**vars(old), **changes})


def _init(self: Any, *values: Any, **named: Any) -> None:
    fields = self._fields
    if values or len(named) < len(fields):
        positional = dict(zip(fields, values))
        twice = positional.keys() & named.keys()
        if len(values) > len(fields) or twice:
            raise TypeError(f"{type(self).__name__}: {len(values)} positional arguments, twice: {sorted(twice)}")
        named = {**self._defaults, **positional, **named}
    if named.keys() != set(fields):
        wrong = sorted(named.keys() ^ set(fields))
        raise TypeError(f"{type(self).__name__}: missing or unknown: {', '.join(wrong)}")
    self.__dict__.update(named)


def _values(self: Any) -> tuple[Any, ...]:
    return tuple(map(self.__dict__.__getitem__, self._fields))


def _equal(self: Any, other: object) -> Any:
    return self.__dict__ == other.__dict__ if type(self) is type(other) else NotImplemented


def _hash(self: Any) -> int:
    return hash(_values(self))


def _repr(self: Any) -> str:
    inner = ", ".join(f"{name}={value!r}" for name, value in zip(self._fields, _values(self)))
    return f"{type(self).__qualname__}({inner})"


def _refuse(self: Any, name: str, value: object = None) -> None:
    raise AttributeError(f"{type(self).__name__} is frozen: its {name!r} cannot change")


class _Fields:
    """``__dataclass_fields__`` of a class, when somebody asks for it."""

    def __get__(self, instance: object, owner: Any) -> dict[str, Any]:
        import dataclasses

        def field(default: Any) -> Any:
            # dataclasses takes no dict for a default
            hashable = type(default).__hash__ is not None
            return (
                dataclasses.field(default=default)
                if hashable
                else dataclasses.field(default_factory=lambda: default)
            )

        kinds, defaults = owner.__annotations__, owner._defaults
        fields = [
            (name, kinds[name], field(defaults[name]) if name in defaults else dataclasses.field())
            for name in owner._fields
        ]
        made = dataclasses.make_dataclass(owner.__name__, fields)
        owner.__dataclass_fields__ = {field.name: field for field in dataclasses.fields(made)}
        return dict(owner.__dataclass_fields__)
