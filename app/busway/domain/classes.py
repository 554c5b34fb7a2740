"""Read attributes as Python stores them, past the properties and metaclasses of user code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def stored(base: type, name: str) -> Callable[[Any], Any]:
    """Return a function that reads an attribute that `base` defines in C, even if a subclass hides it."""
    read: Callable[[Any], Any] = vars(base)[name].__get__
    return read


_name_of = stored(type, "__name__")
_bases_of = stored(type, "__mro__")
_members_of = stored(type, "__dict__")


def class_name(of: type) -> str:
    """Return the name of a class. It may have lone surrogates."""
    return str.__str__(_name_of(of))


def bases_of(of: type) -> tuple[type, ...]:
    """Return a class and its bases, in the order in which Python looks for members."""
    bases: tuple[type, ...] = _bases_of(of)
    return bases


def holds_member(of: type, name: str) -> bool:
    """Return whether a class or one of its bases defines a member."""
    return any(name in _members_of(base) for base in bases_of(of))
