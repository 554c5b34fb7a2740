"""What a publisher asks for by headers: `Idempotency-Key` and `Prefer`, read as their specifications say."""

import pytest
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.api.asking import read_key, read_wait
from busway.gateway.errors import BadRequest


def wait(*values, access=OPEN):
    return read_wait([(b"prefer", value) for value in values], access)


@pytest.mark.parametrize(
    ("values", "seconds"),
    [
        ((b"wait=10",), 10),
        ((b"WAIT = 10",), 10),
        ((b'wait="10"',), 10),
        ((b"wait=0",), 0),
        ((b"wait=60",), 60),
        ((b"wait=61",), 60),
        ((b"wait=999999999",), 60),
        ((b"respond-async, wait=10",), 10),
        ((b"respond-async", b"wait=10"), 10),
        ((b"wait=10;foo=bar, handling=lenient",), 10),
        ((b"wait=10, wait=20",), 10),
        ((b'note="a, wait=5", wait=7',), 7),
        ((b'note="say \\", wait=5", wait=7',), 7),
        ((b"waiter=5",), None),
        ((b"wait",), None),
        ((b"wait=",), None),
        ((b"wait=-1",), None),
        ((b"wait=1.5",), None),
        ((b"wait=ten, wait=20",), None),
        ((b'note="wait=5',), None),
        ((b"=wait=5",), None),
        ((b"",), None),
        ((), None),
    ],
)
def test_the_first_wait_counts_and_what_is_malformed_is_ignored(values, seconds):
    assert wait(*values) == seconds


def test_results_need_their_scope():
    assert wait(b"wait=5", access=Access(1, frozenset({"publish"}))) is None
    assert wait(b"wait=5", access=Access(1, frozenset({"publish", "subscribe"}))) == 5


@pytest.mark.parametrize("value", [b"a", b"x" * 255, b'"quoted"', b"0f0e-~!"])
def test_a_key_is_visible_characters_as_they_are(value):
    assert read_key([(b"idempotency-key", value)]) == value.decode()
    with pytest.raises(BadRequest):
        read_key([(b"idempotency-key", value)] * 2)


@pytest.mark.parametrize("value", [b"", b"x" * 256, b"a b", b"\xe9", b"\x7f", b"\x01"])
def test_any_other_key_is_refused(value):
    with pytest.raises(BadRequest):
        read_key([(b"idempotency-key", value)])
