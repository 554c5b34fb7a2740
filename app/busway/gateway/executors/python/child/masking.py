"""Replace the values of secrets by `***` in everything that leaves this process as text for people.

While no secret is known, this costs one comparison.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import ClassVar

MASK = "***"
LEAST = 4  # characters: shorter values would hide ordinary words
_LEAST_OF_LINE = 12  # of one line of a secret with several: a log may indent each of them
_MOST = 10_000  # values of a process, so that secrets that change for ever do not fill it


class _Known:
    values: ClassVar[dict[str, None]] = {}
    pattern: re.Pattern[str] | None = None


def hide(values: Iterable[str]) -> None:
    """Mask these values from now on. Values of before stay masked: old logs may still name them."""
    new = [value for value in values if len(value.strip()) >= LEAST and value not in _Known.values]
    if not new:
        return
    _Known.values.update(dict.fromkeys(new))
    for value in list(_Known.values)[:-_MOST]:
        del _Known.values[value]
    forms = {form for value in _Known.values for form in _forms(value)}
    _Known.pattern = re.compile("|".join(map(re.escape, sorted(forms, key=len, reverse=True))))


def _forms(value: str) -> set[str]:
    """Return how a value may look in text: as it is, without space around it, as `repr` and JSON show it."""
    bare = value.strip()
    forms = {
        value,
        bare,
        repr(bare)[1:-1],
        json.dumps(bare)[1:-1],
        json.dumps(bare, ensure_ascii=False)[1:-1],
    }
    if "\n" in bare:
        forms |= {line.strip() for line in bare.splitlines() if len(line.strip()) >= _LEAST_OF_LINE}
    return forms


def masked(text: str) -> str:
    """Return text with all known secrets masked."""
    pattern = _Known.pattern
    return text if pattern is None else pattern.sub(MASK, text)


def is_masking() -> bool:
    """Return whether a secret is known."""
    return _Known.pattern is not None
