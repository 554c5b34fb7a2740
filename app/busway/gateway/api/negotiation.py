"""Content negotiation (RFC 9110, section 12.5.1): which of two media types a client prefers."""

from __future__ import annotations

import re

_QUALITY = re.compile(r"q=(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)", re.IGNORECASE)


def prefers(accept: str, media_type: str, usual: str = "application/json") -> bool:
    """Return whether an `Accept` header asks for a media type, and not rather for the usual one.

    Only what the header names counts. A range such as `*/*` stands for the usual one.
    """
    wanted = _quality(accept, media_type)
    return wanted > 0 and wanted > _quality(accept, usual)


def _quality(accept: str, media_type: str) -> float:
    """Return the weight of a media type, 0 if the header does not name it."""
    found = 0.0
    for part in accept.split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        if name.lower() == media_type:
            weights = [match[1] for match in map(_QUALITY.fullmatch, parameters) if match]
            found = max(found, float(weights[0]) if weights else 1.0)
    return found
