"""Chooses the codec of a request by its headers."""

from __future__ import annotations

import re

from busway.domain.cloudevents import decode_header
from busway.gateway.errors import BadRequest, UnsupportedMediaType
from busway.gateway.ingest.codecs.cloudevents import BATCH, BINARY, STRUCTURED
from busway.gateway.ingest.codecs.plain import PLAIN
from busway.gateway.ingest.codecs.port import Codec, Headers

NDJSON = "application/x-ndjson"
_CODECS = (PLAIN, STRUCTURED, BATCH)
FORMS: dict[str, Codec | None] = {codec.media_type: codec for codec in _CODECS if codec.media_type}
"""The codecs by media type, None for NDJSON. This is the only list of them."""
FORMS[NDJSON] = None

ACCEPT_POST = ", ".join(FORMS)
"""The value of the header `Accept-Post`: the media types that name a form of events."""

_CLOUDEVENTS = "application/cloudevents"
_OF_CLOUDEVENTS = [name for name in FORMS if name.startswith(_CLOUDEVENTS)]
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of HTTP
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}")
_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([^\s;\"]*)", re.IGNORECASE)
_CHARSETS = frozenset({"utf-8", "utf8", "us-ascii"})


def choose(headers: Headers) -> Codec | None:
    """Return the codec that reads a request with these headers. None: it is NDJSON, whose lines stream.

    The media type decides, compared without case and parameters. Any other media type is the payload of an
    event in binary mode if `ce-specversion` is there.

    Raises:
        UnsupportedMediaType: no codec reads this media type.
        BadRequest: a header appears twice, or `ce-specversion` is not 1.0.
    """
    types = [value for name, value in headers if name == b"content-type"]
    versions = [value for name, value in headers if name == b"ce-specversion"]
    for name, values in (("Content-Type", types), ("ce-specversion", versions)):
        if len(values) > 1:
            raise BadRequest(f"{name} appears twice: send it once")
    value = types[0].decode("latin-1") if types else ""
    media_type = value.partition(";")[0].strip(" \t").lower()
    if media_type.startswith(_CLOUDEVENTS):
        return _structured(media_type, value)
    if versions:
        _check_version(versions[0])
        if types and not _MEDIA_TYPE.fullmatch(media_type):
            raise _unsupported(value, "send the media type of the data")
        return BINARY
    if media_type not in FORMS:
        raise _unsupported(value, f"send {ACCEPT_POST}, or any other media type with ce-specversion")
    return FORMS[media_type]


def _structured(media_type: str, value: str) -> Codec:
    codec = FORMS.get(media_type)
    if codec is None:
        raise _unsupported(value, f"of CloudEvents send {' or '.join(_OF_CLOUDEVENTS)}")
    charset = _CHARSET.search(value)
    if charset is not None and charset[1].lower() not in _CHARSETS:
        raise _unsupported(value, "JSON is UTF-8")
    return codec


def _check_version(value: bytes) -> None:
    try:
        version = decode_header(value)
    except ValueError as problem:
        raise BadRequest(f"ce-specversion {problem}") from None
    if version != "1.0":
        raise BadRequest(f"ce-specversion must be 1.0, not {version!r}: Busway accepts CloudEvents 1.0")


def _unsupported(value: str, instead: str) -> UnsupportedMediaType:
    shown = f"Content-Type {value[:100]!r}" if value else "a request without Content-Type"
    return UnsupportedMediaType(f"{shown} is not supported: {instead}", accept_post=ACCEPT_POST)
