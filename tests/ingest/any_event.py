"""Strategies for any valid CloudEvent: its members, as JSON has them."""

from __future__ import annotations

import base64
import json
from typing import Any

from busway.domain.cloudevents import encode_header, text
from hypothesis import strategies as st

CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"])
NAMES = st.text(CHARACTERS, min_size=1, max_size=40)
TYPES = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs", "Z"], exclude_characters="*"),
    min_size=1,
    max_size=40,
)
KNOWN = {
    "specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", "data", "seq",
    "runs", "priority", "deliverat", "expirytime", "partitionkey", "correlationid", "causationid",
    "traceparent",
}  # fmt: skip
EXTENSIONS = st.dictionaries(
    st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(lambda name: name not in KNOWN),
    st.text(CHARACTERS, max_size=40) | st.booleans() | st.integers(-(1 << 31), (1 << 31) - 1),
    max_size=4,
)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OPTIONAL = st.fixed_dictionaries(
    {},
    optional={
        "subject": NAMES,
        "time": st.just("2026-01-31T12:00:00.123456Z"),
        "dataschema": st.just("https://x.example/s?a=%20"),
        "priority": st.integers(0, 9),
        "correlationid": NAMES,
    },
)
PAYLOADS = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"data": JSON}),
    st.fixed_dictionaries({"data": JSON, "datacontenttype": st.just("application/vnd.x+json; v=1")}),
    st.fixed_dictionaries(
        {
            "data_base64": st.binary(max_size=100).map(lambda data: base64.b64encode(data).decode()),
            "datacontenttype": st.sampled_from(["text/plain; charset=latin-1", "image/png", "a/b"]),
        }
    ),
)


def as_binary(sent: dict[str, Any]) -> tuple[list[tuple[str, Any]], bytes]:
    """An event in binary mode, made from the members here and not by Busway's own encoder."""
    rest = dict(sent)
    media_type = rest.pop("datacontenttype", None)
    payload = b""
    if "data" in rest:
        payload, media_type = json.dumps(rest.pop("data")).encode(), media_type or "application/json"
    elif "data_base64" in rest:
        payload = base64.b64decode(rest.pop("data_base64"))
    headers = [(f"ce-{name}", encode_header(text(value))) for name, value in rest.items()]
    return [*headers, *([("Content-Type", media_type)] if media_type else [])], payload
