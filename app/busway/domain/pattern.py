"""Type patterns: dot-separated segments. `*` matches one segment, a final `**` one or more."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from busway.domain.text import check_name

Matcher = Callable[[str], bool]


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
    if any(c.isspace() for c in pattern):
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


def _expression(pattern: str) -> str:
    parts = [
        ".+" if segment == "**" else r"[^.]+" if segment == "*" else re.escape(segment)
        for segment in pattern.split(".")
    ]
    return r"\.".join(parts)


@functools.lru_cache(maxsize=4096)
def _compiled(patterns: tuple[str, ...]) -> Matcher:
    expression = re.compile("|".join(f"(?:{_expression(p)})" for p in patterns), re.DOTALL)
    return lambda type_: expression.fullmatch(type_) is not None


def matcher(patterns: Iterable[str]) -> Matcher:
    """Compile patterns into one predicate over event types. An empty list matches every type.

    Raises:
        PatternError: a pattern is invalid.
    """
    wanted = tuple(check_pattern(p) for p in patterns)
    if not wanted or "**" in wanted:
        return lambda _type: True
    return _compiled(wanted)
