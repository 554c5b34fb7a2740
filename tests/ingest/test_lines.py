"""Lines of NDJSON: how a body arrives changes nothing, and no line takes more memory than it may."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from busway.domain.text import MAX_DEPTH
from busway.gateway.ingest.lines import SINGLY, Line, Splitter, read_lines
from busway.gateway.ingest.reading import SLICE_BYTES, SLICE_EVENTS
from busway.gateway.turns import finish
from hypothesis import given, settings
from hypothesis import strategies as st

LONGEST = 40


def split(parts: list[bytes], longest: int = LONGEST) -> list[Line]:
    splitter, found, most = Splitter(longest), [], 0
    for part in parts:
        splitter.add(part)
        while lines := splitter.take():
            assert len(lines) <= SLICE_EVENTS
            found += lines
        most = max(most, splitter.size)
    splitter.end()
    while lines := splitter.take():
        found += lines
    assert most <= longest + 1
    assert splitter.size == 0
    return found


def expected(body: bytes, longest: int = LONGEST) -> list[Line]:
    lines = body.split(b"\n")
    if not lines[-1]:
        del lines[-1]
    return [line if len(line) <= longest + 1 else len(line) for line in lines]


def shown(lines: list[Line], longest: int = LONGEST) -> list[Line]:
    """Lines as `expected` has them: one that came whole is kept even if it is too large."""
    return [len(line) if isinstance(line, bytes) and len(line) > longest + 1 else line for line in lines]


LONG = b"x" * 41 + b"\n" + b"y" * 42 + b"\n" + b"z" * 100 + b"\r\n"
BODY = b'{"type":"a"}\n\n{"type":"b"}\r\n' + LONG + b" \nlast"


def test_a_body_that_arrives_in_two_parts_is_split_alike_at_every_byte() -> None:
    assert [line for line in expected(BODY) if isinstance(line, int)] == [42, 101]
    for at in range(len(BODY) + 1):
        assert shown(split([BODY[:at], BODY[at:]])) == expected(BODY), at
    for size in range(1, 9):
        parts = [BODY[at : at + size] for at in range(0, len(BODY), size)]
        assert shown(split(parts)) == expected(BODY), size


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([b"\n", b"\r\n", b"a", b"bc" * 10, b"d" * 39, b"e" * 90, b" "]), max_size=30),
    st.lists(st.integers(0, 400), max_size=12),
)
def test_any_body_in_any_parts_is_split_alike(pieces: list[bytes], cuts: list[int]) -> None:
    body = b"".join(pieces)
    ends = sorted({0, len(body), *(cut for cut in cuts if cut < len(body))})
    assert shown(split([body[a:b] for a, b in itertools.pairwise(ends)])) == expected(body)


def test_many_lines_are_taken_in_slices() -> None:
    splitter = Splitter(LONGEST)
    splitter.add(b"{}\n" * 1000 + b"x" * 5)
    assert [len(splitter.take()) for _ in range(5)] == [256, 256, 256, 232, 0]
    long = Splitter(10 * SLICE_BYTES)
    long.add(b"x" * (3 * SLICE_BYTES) + b"\n" + b"y\n")
    assert [len(line) for line in long.take() if isinstance(line, bytes)] == [3 * SLICE_BYTES]
    assert long.take() == [b"y"]


def read(*lines: Line, limit: int = 1000) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
    accepted, refused = finish(read_lines(list(lines), 7, limit))
    return [(at, event.type) for at, event in accepted], refused


DEEP = b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"nope", "the line is not JSON"),
        (b'{"type":"a"', "the line is not JSON"),
        (b'"x":1},{"type":"b"}', "the line is not JSON"),
        (b'{"type":"a"}{"type":"b"}', "the line is not JSON"),
        (b'\xef\xbb\xbf{"type":"a"}', "byte order mark"),
        (b'\xff\xfe{\x00', "UTF-16"),
        (b'{"type":"\xff"}', "the line is not JSON"),
        (b'{"type":"a","data":NaN}', "the line is not JSON"),
        (b'{"type":"a","data":%b}' % (b"9" * 400), "does not fit in a double"),
        (b'{"type":"a","data":[%b]}' % DEEP, "deeper than 100"),
        (b"[" + b'{"type":"a"}' + b"]", "one event a line"),
        (b"7", "one event a line"),
        (b"null", "one event a line"),
        (b"\x0c", "the line is not JSON"),
        (b'{"data":1}', "type is missing"),
        (b'{"type":"a b"}', "white space"),
        (b'{"type":"a","seq":1}', "set by the gateway"),
        (b'{"type":"a","Up":1}', "not a valid attribute name"),
        (b'{"type":"a","specversion":"0.3"}', "specversion"),
        (b'{"type":"a","data":"%b"}' % (b"x" * 1000), "limit is 1000"),
        (123_456, "the line has 123456 bytes: the limit is 1000"),
    ],
)  # fmt: skip
def test_a_bad_line_is_refused_alone(line: Line, why: str) -> None:
    accepted, refused = read(b'{"type":"first"}', b"", line, b" \t\r", b'{"type":"last"}\r')
    assert accepted == [(0, "first"), (4, "last")]
    assert [at for at, _ in refused] == [2]
    assert why in refused[0][1]
    assert "the body" not in refused[0][1]


def test_lines_that_are_refused_are_read_in_small_steps() -> None:
    line = b'{"type":"a b",%b}' % b",".join(b'"a%d":[]' % n for n in range(20))
    lines: list[Line] = [line] * SLICE_EVENTS
    most = SINGLY + len(line) + 64  # bytes of one step
    steps = sum(1 for _ in read_lines(lines, 7, 1000))
    assert steps >= len(line) * len(lines) / most - 1
    assert sum(1 for _ in read_lines([b'{"type":"a"}'] * SLICE_EVENTS, 7, 1000)) == 0


def test_lines_that_are_json_only_together_are_refused() -> None:
    accepted, refused = read(b'{"type":"a"', b'"x":1},{"type":"b"}')
    assert (accepted, [at for at, _ in refused]) == ([], [0, 1])


def test_what_single_lines_may_have_many_may_have() -> None:
    deep = b'{"type":"a","data":%b}' % DEEP
    digits = b'{"type":"a","data":"%b"}' % (b"9" * 400)
    accepted, refused = read(*[deep] * 50, *[digits] * 50)
    assert (len(accepted), refused) == (100, [])


def test_payloads_keep_their_bytes() -> None:
    line = b' { "data" : [1.50, {"a" :"\\u00e9"}] ,"type":"t"} '
    large = b'{"type":"t","data":"%b"}' % (b"x" * SLICE_BYTES)
    accepted, refused = finish(read_lines([line] * 3 + [large], 7, 1 << 20))
    assert refused == []
    assert [event.data for _, event in accepted][:3] == [b'[1.50, {"a" :"\\u00e9"}]'] * 3
    assert accepted[3][1].data == msgspec.json.encode("x" * SLICE_BYTES)
