"""Which names and addresses mean this machine."""

from __future__ import annotations

import pytest
from busway.domain.loopback import is_loopback


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST", "localhost.", "app.localhost", "a.b.LocalHost.", "127.0.0.1", "127.0.0.2",
        "127.255.255.255", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "127.0.0.1.", "::1", "[::1]",
        "0:0:0:0:0:0:0:1", "::ffff:127.0.0.1", "[::FFFF:127.0.0.1]", "[::ffff:7f00:1]",
    ],
)  # fmt: skip
def test_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize(
    "host",
    [
        "", ".", "localhost.evil.com", "127.0.0.1.evil.com", "evillocalhost", "evil-localhost", "localhost..",
        ".localhost", "localhost.localdomain", "localhost:80", "0.0.0.0", "0", "::", "[::]", "128.0.0.1",
        "126.1", "10.0.0.1", "::ffff:10.0.0.1", "[127.0.0.1]", "[::1", "127.0.0.1 evil.com", "127.0.0.256",
        "1.127.0.0.1", "localhost\u3002evil.com", "\u2460\u2461\u2466.1",
    ],
)  # fmt: skip
def test_others(host: str) -> None:
    assert not is_loopback(host)
