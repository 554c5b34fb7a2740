"""Type patterns: segments between dots, `*` exactly one segment, `**` as the last one or more."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable

from busway.domain.text import check_name

Matcher = Callable[[str], bool]


class PatternError(ValueError):
    """The text is not a pattern; the message says why."""


def check_pattern(pattern: str) -> str:
    """Return the pattern if it is one.

    Raises:
        PatternError: empty, too long, white space, `*` inside a segment, `**` not last.
    """
    try:
        check_name(pattern, "a pattern")
    except ValueError as problem:
        raise PatternError(str(problem)) from None
    if any(c.isspace() for c in pattern):
        raise PatternError(f"the pattern {pattern!r} has white space in it: remove it")
    *front, last = pattern.split(".")
    if "" in (*front, last):
        raise PatternError(f"the pattern {pattern!r} has an empty segment: write one name between two dots")
    for segment in front:
        if "*" in segment and segment != "*":
            raise PatternError(
                f"in {pattern!r} the segment {segment!r} is neither a name nor '*': '**' may stand only last"
            )
    if "*" in last and last not in {"*", "**"}:
        raise PatternError(f"in {pattern!r} the segment {last!r} is neither a name, '*' nor '**'")
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
    """Compile patterns into one predicate over event types; no pattern at all matches every type.

    Raises:
        PatternError: one of them is not a pattern.
    """
    wanted = tuple(check_pattern(p) for p in patterns)
    if not wanted or "**" in wanted:
        return lambda _type: True
    return _compiled(wanted)
