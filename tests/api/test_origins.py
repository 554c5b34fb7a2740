"""Origins by scheme, host and port."""

from __future__ import annotations

import pytest
from busway.gateway.access.origins import OriginError, Origins, is_own, read_origin
from busway.gateway.errors import BadSettings
from busway.gateway.settings import load


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://app.example", "https://app.example:443"),
        ("http://app.example", "http://app.example:80"),
        ("HTTPS://App.Example", "https://app.example"),
        ("http://[::1]:8000", "HTTP://[::1]:8000"),
    ],
)
def test_these_are_the_same_origin(one: str, other: str) -> None:
    assert read_origin(one) == read_origin(other)


@pytest.mark.parametrize(
    "other",
    [
        "http://app.example",
        "https://app.example:8443",
        "https://www.app.example",
        "https://app.example.evil",
        "https://app.example.",
        "https://evil.example",
    ],
)
def test_another_scheme_host_or_port_is_another_origin(other: str) -> None:
    assert not Origins(["https://app.example"]).admit(other, "gateway:8000")


@pytest.mark.parametrize(
    "text",
    ["*", "null", "", "app.example", "https://", "https://a/", "https://a/b", "https://u@a", "https://a:",
     "//a", "https://*.a.example", "https://a b", "https://a:80:80"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(OriginError):
        read_origin(text)
    assert not Origins(["https://app.example"]).admit(text, "app.example")


@pytest.mark.parametrize(
    ("origin", "host", "own"),
    [
        ("http://localhost:8000", "localhost:8000", True),
        ("http://LOCALHOST:8000", "localhost:8000", True),
        ("https://bus.example", "bus.example", True),  # behind a proxy that speaks TLS
        ("https://bus.example", "bus.example:443", True),
        ("http://bus.example", "bus.example:443", False),
        ("http://127.0.0.1:8000", "localhost:8000", True),
        ("http://[::1]:8000", "app.localhost:8000", True),
        ("http://localhost.evil.com:8000", "localhost:8000", False),
        ("http://localhost:9000", "localhost:8000", False),
        ("http://bus.example", "", False),
        ("null", "null", False),
        ("null", "", False),
    ],
)
def test_a_page_of_the_gateway_itself_is_its_own(origin: str, host: str, own: bool) -> None:
    assert is_own(origin, host) is own


def test_the_setting_takes_several_and_names_a_bad_one(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "handlers").mkdir()
    assert load().allow_origin == ()
    assert load(allow_origin=["https://a.example", "http://b:1"]).allow_origin == (
        "https://a.example",
        "http://b:1",
    )
    monkeypatch.setenv("BUSWAY_ALLOW_ORIGIN", "https://a.example, https://b.example")
    assert load(allow_origin=[]).allow_origin == ("https://a.example", "https://b.example")
    monkeypatch.setenv("BUSWAY_ALLOW_ORIGIN", "")
    assert load().allow_origin == ()
    with pytest.raises(BadSettings, match=r"--allow-origin: .*SCHEME://HOST"):
        load(allow_origin=["https://a.example/page"])
