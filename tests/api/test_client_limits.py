"""What one key or one address may have: rates, connections, bytes. What is not used is forgotten."""

import time
from ipaddress import ip_network

import pytest
from busway.gateway import limits
from busway.gateway.budget import Budget
from busway.gateway.door.deadlines import Pace, Times
from busway.gateway.errors import TooManyRequests, Unavailable
from busway.gateway.limits import Limits, Policy, Rate, Share, Shares, hits, pace, part_of, read_rate

from tests.api.kit import HOST, PATIENCE, Peer, post, serving


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def share(clock, **policy):
    return Share("key", Policy(**policy), clock)


# -- rates


def test_a_rate_gives_a_whole_quota_at_once_and_then_its_pace(clock):
    one = share(clock, rate=Rate(10, 1))
    assert [one.spend() for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.25
    assert [one.spend() for _ in range(4)] == [True, True, False, False]
    clock.now += 3600
    assert sum(one.spend() for _ in range(20)) == 10


def test_what_is_done_already_delays_what_comes_next(clock):
    one = share(clock, rate=Rate(10, 1))
    assert one.spend()
    one.charge(29)  # an array of 30 events
    clock.now += 2.05
    assert not one.spend()
    assert one.too_fast().retry_after == 1
    clock.now += 0.1
    assert one.spend()
    one.charge(1_000_000)
    assert one.too_fast().retry_after == 3601  # it is never more


def test_lines_and_frames_wait_instead_of_being_refused(clock):
    one, other = share(clock, rate=Rate(100, 1)), share(clock, rate=Rate(1000, 1))
    assert pace([one, other], 100) == 0
    assert pace([one, other], 50) == 0  # what is counted delays only what follows
    assert pace([one, other], 10_000) == 0.5
    for _ in range(2):  # what is refused does not count
        with pytest.raises(TooManyRequests) as told:
            pace([one, other], 10_000)
        assert told.value.retry_after == 101
    assert pace([], 1_000_000) == pace([share(clock)], 1_000_000) == 0


def test_the_header_fields_say_what_is_left(clock):
    one = share(clock, rate=Rate(2, 60))
    found = []
    for _ in range(3):
        one.spend()
        found.append(one.lines())
    policy = b'ratelimit-policy: "key";q=2;w=60\r\nratelimit: "key";'
    assert found == [policy + b"r=1;t=30\r\n", policy + b"r=0;t=30\r\n", policy + b"r=0;t=30\r\n"]
    clock.now += 40
    one.spend()
    assert one.lines() == policy + b"r=0;t=20\r\n"
    assert share(clock).lines() == b""


def test_a_large_quota_is_written_anew_with_each_percent(clock):
    one = share(clock, rate=Rate(10_000, 1))
    written = {one.lines() for _ in range(10_000) if one.spend()}
    assert 90 < len(written) < 220
    assert one.lines().endswith(b"r=0;t=1\r\n")


@pytest.mark.parametrize("text", ["100", "0/s", "-1/s", "1/d", "1.5/s", "1 /s", "²/s"])
def test_what_is_no_rate_is_refused(text):
    with pytest.raises(ValueError, match="100/s"):
        read_rate(text)
    assert read_rate("none") is read_rate("") is None
    assert read_rate("60/m") == Rate(60, 60)


# -- what lasts


def test_each_limit_is_counted_and_named(clock):
    before = hits.copy()
    one = share(clock, connections=1, subscriptions=1, bytes=10)
    one.connect()
    with pytest.raises(TooManyRequests, match="1 open connections"):
        one.connect()
    one.subscriptions = 2
    with pytest.raises(TooManyRequests, match="1 subscriptions"):
        one.check_subscriptions()
    whole = Budget(15, "bodies")
    part = part_of(whole, one)
    part.take(20)  # nothing was taken
    part.give(12)
    with pytest.raises(TooManyRequests, match="more than 10 bytes"):
        part.take(3)
    whole.count(7)
    with pytest.raises(Unavailable):
        part.take(1)
    assert (one.bytes, whole.used) == (8, 15)
    assert {name: hits[name] - before[name] for name in hits if hits[name] > before[name]} == {
        "key_connections": 1, "key_subscriptions": 1, "key_bytes": 1,
    }  # fmt: skip
    assert part_of(whole, None) is whole


def test_clients_of_which_nothing_is_left_are_forgotten(clock, monkeypatch):
    shares = Shares("address", Policy(rate=Rate(10, 1), connections=5), clock)
    lasting = shares.of("lasting")
    lasting.connect()
    for number in range(1000):
        shares.of(number).spend()
    assert len(shares) == 1001  # their rates are not full again
    clock.now += 1
    for number in range(1000, 2000):
        shares.of(number).spend()
    assert len(shares) <= 1002
    monkeypatch.setattr(limits, "MOST_KEPT", 50)
    for number in range(2000, 4000):
        shares.of(number).spend()
    assert len(shares) <= 51
    assert shares.of("lasting") is lasting
    assert Shares("key", Policy()).of(1) is None


def test_an_address_is_that_of_a_network_for_ipv6(clock):
    found = Limits(addresses=Policy(connections=1), unlimited=(ip_network("127.0.0.0/8"), ip_network("::1")))
    same = {found.of_address(a) for a in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:1::3%eth0")}
    assert len(same) == 1
    assert found.of_address("2001:db8:0:2::1") not in same
    assert found.of_address("192.0.2.1") is found.of_address("::ffff:192.0.2.1")
    assert found.of_address("192.0.2.1") is not found.of_address("192.0.2.2")
    for without in ("127.0.0.1", "::1", "::ffff:127.8.8.8", "", "localhost", None):
        assert found.of_address(without) is None
    assert found.of_key(None) is found.of_key(1) is None


# -- at the door


def limited(app, **policy):
    app.limits = Limits(addresses=Policy(**policy))
    return app


def test_an_address_has_so_many_connections(app):
    limited(app, connections=2)
    with serving(app) as (port, _):
        first, second = Peer(port), Peer(port)
        for peer in (first, second):
            peer.send(post(b"a"))
            assert peer.read()[1] == b"a"
        third = Peer(port)
        status, _, headers = third.read()
        assert (status, headers[b"retry-after"]) == (429, b"1")
        assert third.ended()
        first.close()
        until(lambda: app.limits.of_address("127.0.0.1").connections == 1)
        fourth = Peer(port)
        fourth.send(post(b"b"))
        assert fourth.read()[1] == b"b"
        for peer in (second, third, fourth):
            peer.close()
        until(lambda: app.limits.of_address("127.0.0.1").connections == 0)


def until(condition):
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("chunked", [False, True])
def test_an_address_has_so_many_requests_and_keeps_its_connection(app, chunked):
    limited(app, rate=Rate(4, 3600))
    found = []
    with serving(app) as (port, _):
        peer = Peer(port)
        for path in (b"/echo", b"/echo", b"/asgi", b"/echo", b"/echo", b"/asgi"):
            if chunked:
                head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path, HOST)
                peer.send(head + b"1\r\na\r\n0\r\n\r\n")
            else:
                peer.send(post(b"a", path))
            status, body, headers = peer.read()
            found.append((status, headers[b"ratelimit"].partition(b";t")[0]))
            assert headers[b"ratelimit-policy"] == b'"address";q=4;w=3600'
        assert headers[b"retry-after"] == b"900"
        assert b"too many requests of this address" in body
        peer.close()
    assert found == [(200, b'"address";r=%d' % left) for left in (3, 2, 1, 0)] + [(429, b'"address";r=0')] * 2


def test_bytes_of_an_address_are_bounded_and_come_back(app):
    limited(app, bytes=50_000)
    app.echo.idle = PATIENCE
    with serving(app) as (port, _):
        first, second = Peer(port), Peer(port)
        begun = b"POST /%b HTTP/1.1\r\n" + HOST + b"Content-Length: 45000\r\n\r\n" + b"x" * 40_000
        first.send(begun % b"echo")
        until(lambda: app.limits.of_address("127.0.0.1").bytes)
        second.send(begun % b"asgi")
        assert second.read()[0] == 429
        first.send(b"x" * 5000)
        assert first.read()[0] == 200
        first.close()
        second.close()
        until(lambda: app.limits.of_address("127.0.0.1").bytes == 0)


# -- slow bodies


def test_a_body_has_to_keep_its_pace():
    body = Pace(100, 30, 1000)
    assert body.left(100) == 30
    body.came(10)
    assert body.left(120) == 10  # 30 s are over then, and it is far too slow
    body.came(49_990)
    assert body.left(129) == 21  # 50 s for 50,000 bytes
    body.came(1_000_000)
    assert body.left(131) == 30  # it must not stand still, however much came before
    body.pause(131)
    assert body.left(2000) == 30
    assert Pace(0, 60, 0).left(10_000) == 60


@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
def test_a_body_that_drips_is_given_up(app, path):
    app.times = Times(body=1.0, least=100_000)
    app.echo.idle, app.echo.least = 1.0, 100_000
    with serving(app) as (port, _):
        peer = Peer(port)
        peer.send(post(b"x" * 90_000, path)[:-80_000])
        peer.sock.settimeout(PATIENCE)
        began = time.monotonic()
        while True:  # more often than each second
            peer.sock.settimeout(0.05)
            try:
                if peer.sock.recv(20).startswith(b"HTTP/1.1 408"):
                    break
            except TimeoutError:
                assert time.monotonic() - began < PATIENCE
                peer.send(b"x")
        peer.close()
