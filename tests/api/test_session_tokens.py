"""Session tokens and the limit of wrong sign-ins, with time passed in."""

from __future__ import annotations

import pytest
from busway.gateway.access.gate import Gate
from busway.gateway.access.keys import key_text
from busway.gateway.access.sessions import LIFETIME, SignIns, Use, cookie_token, set_cookie
from busway.gateway.errors import BadRequest, Conflict, Forbidden, TooManyRequests, Unauthorized

from tests.api.test_tickets import HERE, Clocks, record

SECRET = b"s" * 32


def cookie(token: str) -> list[tuple[bytes, bytes]]:
    return [*HERE, (b"cookie", set_cookie(token, 1, secure=False).partition(";")[0].encode())]


def test_a_session_is_good_for_its_time_on_every_node_of_the_cell_and_no_other() -> None:
    clocks = Clocks()
    keys = [record(1, "admin"), record(2, "subscribe", types=["t"], expires_at=clocks.wall + 60_000_000)]
    one, other, foreign = (clocks.gate(secret=secret) for secret in (SECRET, SECRET, b"x" * 32))
    with pytest.raises(Conflict):
        one.sign_in(key_text(1, "s1"), "192.0.2.1")
    for gate in (one, other, foreign):
        gate.load(keys)
    access, token = one.sign_in(f" {key_text(1, 's1')}\n", "192.0.2.1")
    assert access.until == clocks.wall + LIFETIME * 1e6
    assert other.admit(cookie(token), Use.READ) == access
    with pytest.raises(Unauthorized, match="has ended"):
        foreign.admit(cookie(token), Use.READ)
    with pytest.raises(Forbidden):  # what does not say what it wants might change something
        other.admit(cookie(token))
    short, of_two = one.sign_in(key_text(2, "s2"), "192.0.2.1")
    assert (short.types, short.until) == (("t",), clocks.wall + 60_000_000)
    sooner = clocks.wall + 30_000_000  # it was rotated
    one.load([keys[0], record(2, "subscribe", types=["t"], expires_at=sooner)])
    assert one.admit(cookie(of_two), Use.READ).until == sooner
    assert one.holds(one.admit(cookie(of_two), Use.READ))
    clocks.wall += 30_000_000
    assert not one.holds(short)
    clocks.wall += 30_000_000
    for gate in (one, other):
        with pytest.raises(Unauthorized):
            gate.admit(cookie(of_two), Use.READ)
    clocks.wall += round(LIFETIME * 1e6) - 60_000_001
    assert one.admit(cookie(token), Use.READ).source == "session"
    clocks.wall += 1
    with pytest.raises(Unauthorized, match="has ended"):
        one.admit(cookie(token), Use.READ)


@pytest.mark.parametrize(
    ("header", "token"),
    [
        (b"busway_session=bws_a", "bws_a"),
        (b"a=b; busway_session=bws_a; c=d", "bws_a"),
        (b"busway_session=bws_a; __Host-busway_session=bws_b", "bws_b"),
        (b"busway_session=bws_a; busway_session=bws_c", "bws_a"),
        (b"xbusway_session=bws_a", None),
        (b"busway_session=bw_1_x", None),
        (b"busway_session=bws_" + b"a" * 4000, None),
        (b"busway_session=" + b";" * 60_000, None),
        (None, None),
    ],
)
def test_the_token_of_a_cookie(header: bytes | None, token: str | None) -> None:
    assert cookie_token(header) == token
    assert cookie_token(header, encrypted=True) == (token if token == "bws_b" else None)


def test_with_tls_a_cookie_that_another_host_planted_does_not_count() -> None:
    gate = Clocks().gate(secret=SECRET, encrypted=True)
    gate.load([record(1, "admin")])
    _, token = gate.sign_in(key_text(1, "s1"), "192.0.2.1")
    with pytest.raises(Unauthorized, match="missing API key"):
        gate.admit(cookie(token), Use.READ)
    own = set_cookie(token, 1, secure=True).partition(";")[0].encode()
    assert gate.admit([*HERE, (b"cookie", own)], Use.READ).source == "session"


@pytest.mark.parametrize("name", [b"authorization", b"origin", b"sec-fetch-site"])
def test_what_says_who_sends_a_request_stands_once(name: bytes) -> None:
    gate = Clocks().gate()
    gate.load([record(1, "admin")])
    good = {b"authorization": f"Bearer {key_text(1, 's1')}".encode(), b"origin": b"http://localhost:8000"}
    headers = [*HERE, *good.items(), (b"sec-fetch-site", b"same-origin")]
    assert gate.admit(headers).source == "key"
    with pytest.raises(BadRequest, match=f"the header {name.decode()} appears twice"):
        gate.admit([(name, b"x"), *headers])


def test_wrong_sign_ins_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    gate: Gate = clocks.gate()
    gate.load([record(1, "admin")])

    def wrong(address: str, times: int = 1) -> None:
        for _ in range(times):
            with pytest.raises(Unauthorized):
                gate.sign_in(key_text(1, "no"), address)

    wrong("192.0.2.1", 10)
    with pytest.raises(TooManyRequests) as refusal:
        gate.sign_in(key_text(1, "s1"), "192.0.2.1")
    assert refusal.value.retry_after == 6
    wrong("192.0.2.2")
    wrong("2001:db8::1", 10)
    with pytest.raises(TooManyRequests):
        gate.sign_in(key_text(1, "s1"), "2001:db8::ffff")
    clocks.seconds += 6
    wrong("192.0.2.1")
    clocks.seconds += 60
    gate.sign_in(key_text(1, "s1"), "192.0.2.1")
    monkeypatch.setattr(SignIns, "MOST", 2)
    for number in range(5):
        wrong(f"192.0.2.{number}")
    assert len(gate._sign_ins._free_at) == 2
