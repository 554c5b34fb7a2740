"""Who sent a request: what peers say of others is believed only of trusted proxies."""

from __future__ import annotations

import pytest
from busway.gateway.access.proxies import TrustedProxies, client_address
from busway.gateway.door.port import LOCAL, Client
from busway.gateway.errors import BadSettings
from busway.gateway.settings import load

TRUSTED = TrustedProxies(["10.0.0.0/8", "fd00::/8", "192.0.2.1", "unix"])

XFF, FORWARDED = "X-Forwarded-For", "Forwarded"
SAID: list[tuple[str, list[tuple[str, str]], Client]] = [
    ("10.0.0.1", [], Client("10.0.0.1")),
    ("203.0.113.9", [(XFF, "1.2.3.4"), ("X-Forwarded-Proto", "https")], Client("203.0.113.9")),
    (LOCAL, [(XFF, "1.2.3.4")], Client("1.2.3.4")),
    ("10.0.0.1", [(XFF, "6.6.6.6, 1.2.3.4")], Client("1.2.3.4")),  # what the client itself wrote stands first
    ("10.0.0.1", [(XFF, "6.6.6.6"), (XFF, "1.2.3.4, 192.0.2.1")], Client("1.2.3.4")),  # one list
    ("10.0.0.1", [(XFF, "10.0.0.3,10.0.0.2")], Client("10.0.0.3")),  # all are proxies: the first one
    ("10.0.0.1", [(XFF, "1.2.3.4:5678")], Client("1.2.3.4")),
    ("10.0.0.1", [(XFF, "[2001:db8::7]:443")], Client("2001:db8::7")),
    ("fd00::1", [(XFF, "2001:DB8::7")], Client("2001:db8::7")),
    ("10.0.0.1", [(XFF, "::ffff:1.2.3.4")], Client("1.2.3.4")),
    ("10.0.0.1", [(XFF, "6.6.6.6, unknown")], Client("10.0.0.1")),  # the proxy does not say who it was
    ("10.0.0.1", [(XFF, "6.6.6.6, nobody, 10.0.0.2")], Client("10.0.0.2")),
    ("10.0.0.1", [(XFF, "")], Client("10.0.0.1")),
    ("10.0.0.1", [("X-Real-IP", "1.2.3.4"), ("CF-Connecting-IP", "1.2.3.4")], Client("10.0.0.1")),
    (
        "10.0.0.1",
        [(XFF, "1.2.3.4"), ("X-Forwarded-Proto", "HTTPS"), ("X-Forwarded-Host", "bus.example:8443")],
        Client("1.2.3.4", "https", b"bus.example:8443"),
    ),
    ("10.0.0.1", [("X-Forwarded-Proto", "wss")], Client("10.0.0.1", "https")),
    ("10.0.0.1", [("X-Forwarded-Proto", "gopher"), ("X-Forwarded-Host", "a b")], Client("10.0.0.1")),
    ("10.0.0.1", [("X-Forwarded-Host", "bus.example\r\nX: y")], Client("10.0.0.1")),
    (
        "10.0.0.1",
        [(FORWARDED, 'for="[2001:db8::7]:4711";proto=https;host="bus.example:443";by=203.0.113.43')],
        Client("2001:db8::7", "https", b"bus.example:443"),
    ),
    (
        "10.0.0.1",
        [(FORWARDED, "for=6.6.6.6, For=1.2.3.4; Proto=https;host=a, for=10.0.0.2;proto=http;host=b")],
        Client("1.2.3.4", "https", b"a"),
    ),
    ("10.0.0.1", [(FORWARDED, 'for="_hidden"'), (FORWARDED, "for=unknown")], Client("10.0.0.1")),
    ("10.0.0.1", [(FORWARDED, 'for="1.2.3.4')], Client("10.0.0.1")),  # the quote does not end
    ("10.0.0.1", [(FORWARDED, "for=1.2.3.4"), (XFF, "1.2.3.4")], Client("1.2.3.4")),
    ("10.0.0.1", [(FORWARDED, "for=6.6.6.6;host=evil"), (XFF, "1.2.3.4")], Client("10.0.0.1")),
]  # fmt: skip


@pytest.mark.parametrize(("peer", "headers", "client"), SAID)
def test_only_trusted_proxies_say_who_the_client_is(
    peer: str, headers: list[tuple[str, str]], client: Client
) -> None:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    assert TRUSTED.client(peer, raw) == client


def test_by_default_nobody_is_trusted() -> None:
    nobody = TrustedProxies()
    for peer in (LOCAL, "127.0.0.1", "::1", "", "10.0.0.1"):
        assert not nobody.trusts(peer)
        assert nobody.client(peer, [(b"x-forwarded-for", b"1.2.3.4")]) == Client(peer)


def test_long_headers_are_read_in_time() -> None:
    for value in (
        b"," * 60_000,
        b'"' * 60_000,
        b"for=" * 15_000,
        b'for="' + b"\\" * 60_000,
        b"1.2.3.4," * 8_000,
    ):
        TRUSTED.client("10.0.0.1", [(b"forwarded", value), (b"x-forwarded-for", value)])


def test_the_address_of_a_scope() -> None:
    assert client_address({"client": ("192.0.2.7", 4711)}) == "192.0.2.7"
    assert client_address({"client": None}) == client_address({}) == ""


def test_the_setting_takes_several_and_names_a_bad_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers").mkdir()
    assert load().trusted_proxies == ()
    assert load(trusted_proxies=["10.0.0.0/8,unix", "::1"]).trusted_proxies == ("10.0.0.0/8", "unix", "::1")
    for bad in ("proxy.example", "10.0.0.1/8", "*"):
        with pytest.raises(BadSettings, match="--trusted-proxies: must be an address"):
            load(trusted_proxies=[bad])
