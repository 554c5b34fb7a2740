"""Type patterns: dot-separated segments. `*` matches one segment, a final `**` one or more."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from busway.domain.text import check_name

Matcher = Callable[[str], bool]
Value = TypeVar("Value")

_SPACE = re.compile(r"\s")


class PatternError(ValueError):
    """The pattern is invalid. The message says why."""


def check_pattern(pattern: str) -> str:
    """Return the pattern if it is valid.

    Raises:
        PatternError: empty, too long, white space, `*` inside a segment, `**` not last.
    """
    try:
        check_name(pattern, "pattern")
    except ValueError as problem:
        raise PatternError(str(problem)) from None
    if _SPACE.search(pattern):
        raise PatternError(f"the pattern {pattern!r} contains white space: remove it")
    *front, last = pattern.split(".")
    if "" in (*front, last):
        raise PatternError(f"the pattern {pattern!r} has an empty segment: write a name between two dots")
    for segment in front:
        if "*" in segment and segment != "*":
            raise PatternError(
                f"in the pattern {pattern!r}, {segment!r} is not a name or '*': '**' must be last"
            )
    if "*" in last and last not in {"*", "**"}:
        raise PatternError(
            f"in the pattern {pattern!r}, the last segment {last!r} is not a name, '*' or '**'"
        )
    return pattern


def sample_type(pattern: str) -> str:
    """Return a type that a pattern matches: `order.*` gives `order.x`."""
    return pattern.replace("**", "x").replace("*", "x")


def matcher(patterns: Iterable[str]) -> Matcher:
    """Compile patterns into one predicate over event types. An empty list matches every type.

    Raises:
        PatternError: a pattern is invalid.
    """
    wanted = tuple(check_pattern(p) for p in patterns)
    if not wanted or "**" in wanted:
        return lambda _type: True
    exact = frozenset(pattern for pattern in wanted if "*" not in pattern)
    wild = [_wild(pattern) for pattern in wanted if "*" in pattern]
    if not wild:
        return exact.__contains__
    if not exact and len(wild) == 1:
        return wild[0]
    return lambda type_: type_ in exact or any(matches(type_) for matches in wild)


def _wild(pattern: str) -> Matcher:
    front, _, last = pattern.rpartition(".")
    if "*" in front:
        index = PatternIndex[None]()
        index.add(pattern, None)
        return lambda type_: bool(index.find(type_))
    if not front:
        return lambda type_: "." not in type_
    start = f"{front}."
    if last == "**":
        return lambda type_: type_.startswith(start) and type_ != start
    return lambda type_: type_.rpartition(".")[0] == front and type_[-1] != "."


class _Node(Generic[Value]):
    """The patterns with the same first segments: `exact` end here, `rest` have only `**` left."""

    __slots__ = ("children", "exact", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node[Value]] = {}
        self.exact: list[Value] = []
        self.rest: list[Value] = []


class PatternIndex(Generic[Value]):
    """Values by pattern. Finding those of a type looks at the matching patterns only, not at each."""

    def __init__(self) -> None:
        self._root: _Node[Value] = _Node()
        self._exact: dict[str, list[Value]] = {}

    def add(self, pattern: str, value: Value) -> None:
        """Add a value for a valid pattern."""
        if "*" not in pattern:
            self._exact.setdefault(pattern, []).append(value)
            return
        node = self._root
        segments = pattern.split(".")
        many = segments[-1] == "**"
        for segment in segments[:-1] if many else segments:
            node = node.children.setdefault(segment, _Node())
        (node.rest if many else node.exact).append(value)

    def find(self, type_: str) -> list[Value]:
        """Return the values of all patterns that match a type, some of them several times."""
        found = [*self._exact.get(type_, ())]
        nodes, left = [self._root], len(type_)
        for segment in type_.split("."):
            if left > 0:
                for node in nodes:
                    found += node.rest
            nodes = [
                child
                for node in nodes
                for child in (node.children.get(segment), node.children.get("*") if segment else None)
                if child is not None
            ]
            if not nodes:
                return found
            left -= len(segment) + 1
        for node in nodes:
            found += node.exact
        return found
