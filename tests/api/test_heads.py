"""Requests whose head was seen before go past the parser, and mean what they always mean."""

import random
import socket
import struct
import time

import pytest
from busway.gateway.door import heads, protocol

from tests.api.kit import HOST, PATIENCE, Direct, Peer, post, serving


def test_requests_with_the_same_head_are_all_answered_with_their_own_body(peer):
    for body in (b"one", b"two", b"", b"six", b"four", b""):
        peer.send(post(body))
        assert peer.read()[:2] == (200, body)


def test_a_known_head_in_front_of_other_bytes_means_what_it_always_means(echo, peer):
    known = post(b"abc")
    for _ in range(2):
        peer.send(known)
        assert peer.read()[1] == b"abc"
    peer.send(known + known)  # two at once
    assert [peer.read()[1] for _ in range(2)] == [b"abc", b"abc"]
    peer.send(known[:-1])  # a part, then the rest with the beginning of the next
    peer.send(b"d" + known[:10])
    assert peer.read()[1] == b"abd"
    peer.send(known[10:])
    assert peer.read()[1] == b"abc"
    peer.send(b"\r\n\r\n")  # empty lines between requests are nothing (RFC 9112, section 2.2)
    peer.send(known)
    assert peer.read()[1] == b"abc"
    peer.send(post(b"no", extra=b"X-Refuse: 1\r\n"))
    assert peer.read()[:2] == (403, b"no")
    peer.send(known.replace(b"/echo", b"/asgi"))
    assert peer.read()[1] == b"/asgi:abc"
    peer.send(known)
    assert peer.read()[1] == b"abc"


def test_empty_lines_behind_an_empty_body_are_no_request(peer):
    peer.send(post(b""))
    assert peer.read()[:2] == (200, b"")
    for _ in range(3):
        peer.send(b"\r\n\r\n")
    peer.send(post(b"next"))
    assert peer.read()[:2] == (200, b"next")


def test_a_body_behind_a_known_head_may_come_in_parts(echo, peer):
    head, body = post(b"0123456789").split(b"\r\n\r\n")
    head += b"\r\n\r\n"
    for round_ in range(4):  # known from the second on, however it comes
        peer.send(head)
        time.sleep(0.02)
        for at in range(0, 10, 4):
            peer.send(body[at : at + 4])
            time.sleep(0.02)
        assert peer.read()[:2] == (200, body), round_
    peer.send(head + body[:4])
    time.sleep(0.02)
    peer.send(body[4:] + head + body + head)  # the rest, a whole one, and the head of another
    assert [peer.read()[1] for _ in range(2)] == [body, body]
    time.sleep(0.02)
    peer.send(body)
    assert peer.read()[1] == body
    peer.send(head + body[:9])
    assert peer.read()[:2] == (408, b"too slow")


def test_what_is_chunked_expected_or_ends_its_connection_is_never_known(app):
    chunked = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    closing = post(b"bye", extra=b"Connection: close\r\n")
    with serving(app) as (port, _):
        for _ in range(2):
            peer = Peer(port)
            for _ in range(2):
                peer.send(chunked)
                assert peer.read()[1] == b"abc"
            peer.send(closing)
            status, body, headers = peer.read()
            assert (status, body, headers[b"connection"]) == (200, b"bye", b"close")
            assert peer.ended()
            peer.close()


def test_requests_with_a_known_head_wait_for_the_answers_before_them(echo, peer):
    for _ in range(2):
        peer.send(post(b"first"))
        assert peer.read()[1] == b"first"
    peer.send(post(b"later"))
    while not echo.waiting:
        time.sleep(0.01)
    peer.send(post(b"behin"))
    time.sleep(0.1)
    echo.release()
    assert [peer.read()[1] for _ in range(2)] == [b"released", b"behin"]


def test_who_goes_while_several_requests_wait_in_line_leaves_nothing_behind(app, caplog):
    with serving(app) as (port, server):
        peer = Peer(port)
        for body in (b"first", b"later"):
            peer.send(post(body))
        assert peer.read()[1] == b"first"
        while not app.echo.waiting:
            time.sleep(0.01)
        for _ in range(3):
            peer.send(post(b"later"))
            time.sleep(0.02)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        peer.close()
        until = time.monotonic() + PATIENCE
        state = server.server_state
        while (state.connections or state.tasks) and time.monotonic() < until:
            if app.echo.waiting:  # nothing is read of it meanwhile, so that only an answer finds it gone
                app.echo.release()
            time.sleep(0.01)
        assert not state.connections
        assert not state.tasks
        other = Peer(port)
        other.send(post(b"other"))
        assert other.read()[1] == b"other"
        other.close()
    assert not caplog.records


def pieces(chance, requests):
    """Cut requests anywhere, or each behind its head and once more."""
    if chance.random() < 0.5:
        stream = b"".join(requests)
        while stream:
            step = chance.choice((1, 5, 40, len(requests[0]), 200))
            yield stream[:step]
            stream = stream[step:]
        return
    for request in requests:
        head = request.find(b"\r\n\r\n", 4) + 4
        cut = head + chance.randrange(3)
        yield from filter(None, (request[:head], request[head:cut], request[cut:]))


@pytest.fixture
def parsed(monkeypatch):
    """The heads that the parser was given."""
    found = []
    monkeypatch.setattr(protocol, "read", lambda head: found.append(head) or heads.read(head))
    return found


@pytest.mark.parametrize("app", [Direct], indirect=False)
def test_the_parser_sees_once_what_matters_of_a_head(app, parsed):
    with serving(app()) as (port, _):
        peer = Peer(port)
        for number, parts in enumerate(([b""], [b""], [b"", b"later"], [b""])):
            extra = b"traceparent: 00-%032x-%016x-01\r\nX-Number: %d\r\n" % (number, number, number)
            request = post(b"x" * number, extra=extra)
            for part in (request,) if len(parts) == 1 else (request[:-1], request[-1:]):
                peer.send(part)
                time.sleep(0.02)
            assert peer.read()[1] == b"x" * number
        assert len(parsed) == 1
        peer.send(post(b"abc", extra=b"X-Refuse: 0\r\n"))
        assert peer.read()[1] == b"abc"
        assert len(parsed) == 2
        peer.close()


def test_a_refused_head_is_not_remembered(parsed):
    app = Direct()
    with serving(app) as (port, _):
        peer = Peer(port)
        for _ in range(3):
            peer.send(post(b"no", extra=b"X-Refuse: 1\r\n"))
            assert peer.read()[:2] == (403, b"no")
        assert len(parsed) == 3
        peer.close()


@pytest.mark.parametrize(
    "extra",
    [
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding:\r\n chunked\r\n",
        b"Host: other\r\n",
        b"\x00: 1\r\n",
        b"X-Odd: \x01\r\n",
        b" X-Folded: 1\r\n",
        b"no colon\r\n",
        b"X: 1\n",
    ],
)
def test_a_line_that_the_parser_would_refuse_is_refused_behind_a_known_head_too(app, extra):
    with serving(app) as (port, _):
        for _ in range(2):
            peer = Peer(port)
            peer.send(post(b"abc"))
            assert peer.read()[1] == b"abc"
            peer.send(post(b"abc", extra=extra))
            assert peer.read()[0] == 400
            assert peer.ended()
            peer.close()


def test_however_requests_are_cut_into_pieces_each_gets_its_own_answer(app):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    kinds = {
        "known": post,
        "named": lambda body: post(body, extra=b"X-Name: a\r\n"),
        "asgi": lambda body: post(body).replace(b"/echo", b"/asgi"),
        "chunked": lambda body: b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n",
        "lines": lambda body: b"\r\n\r\n" + post(body),
    }  # fmt: skip
    with serving(app) as (port, _):
        for _ in range(12):
            peer, sent, expected = Peer(port), [], []
            for _ in range(chance.randrange(5, 40)):
                kind, size = chance.choice(list(kinds)), chance.choice((0, 1, 3, 3, 7))
                body = bytes(chance.choice(b"ab\r\n: 0PS") for _ in range(size))
                sent.append(kinds[kind](body))
                expected.append(b"/asgi:" + body if kind == "asgi" else body)
            for piece in pieces(chance, sent):
                peer.send(piece)
                if chance.random() < 0.3 or len(piece) < 8:
                    time.sleep(0.002)
            assert [peer.read()[1] for _ in expected] == expected, seed
            peer.close()


@pytest.mark.parametrize("known", [False, True])
def test_a_body_that_stands_still_behind_another_request_is_given_up(echo, peer, known):
    if known:
        peer.send(post(b"12345"))
        assert peer.read()[1] == b"12345"
    peer.send(post(b"later"))
    while not echo.waiting:
        time.sleep(0.01)
    peer.send(post(b"12345")[:-1])
    time.sleep(0.05)
    echo.release()
    assert peer.read()[1] == b"released"
    assert peer.read()[:2] == (408, b"too slow")


def test_what_is_remembered_of_heads_is_bounded(monkeypatch):
    monkeypatch.setattr(heads, "_KEPT_BYTES", 40_000)
    app = Direct()
    with serving(app) as (port, _):
        peer = Peer(port)
        for number in range(200):
            extra = b"X-Refuse: %d\r\nX-Number: %d\r\n" % (number + 2, number)
            peer.send(post(b"x" * (number % 70), extra=extra))
            assert peer.read()[1] == b"x" * (number % 70)
        for _ in range(2):
            peer.send(post(b"x", extra=b"X-Refuse: %b\r\n" % (b"y" * 5000)))
            assert peer.read()[1] == b"x"
        known = heads._KNOWN[app.echo]
        assert 0 < len(known._heads) <= 40_000 // heads._OVERHEAD
        assert max(sum(map(len, key)) for key in known._heads) <= heads._KEPT_HEAD
        assert 0 < len(known._lines) <= 40_000 // heads._OVERHEAD
        assert len(known._lines.lengths) <= len(known._lines)
        peer.close()


def test_nothing_is_remembered_of_heads_that_were_refused():
    app = Direct()
    with serving(app) as (port, _):
        peer = Peer(port)
        for number in range(20):
            peer.send(post(b"x", extra=b"X-Refuse: 1\r\nce-id: %d\r\nX-Number: %d\r\n" % (number, number)))
            assert peer.read()[0] == 403
        known = heads._KNOWN[app.echo]
        lines = known._lines
        assert [*known._heads, *lines, *lines.lengths, *lines.data, *lines.fresh] == []
        peer.close()


def test_what_differs_from_request_to_request_comes_with_a_known_head():
    known = heads.Known("/echo", frozenset({b"x-refuse"}), frozenset({b"x-asks"}))
    varying = b"ce-id: %d\r\nCE-Subject:  a b \r\nX-Refuse: 0\r\nX-Asks: %d\r\n"
    for number in range(3):
        head = post(b"abc", extra=varying % (number, number))[:-7]
        found = known.find(head)
        if number:
            assert found is not None
            assert found[1] == 3
            assert sorted(found[0].headers) == [
                (b"ce-id", b"%d" % number),
                (b"ce-subject", b"a b"),
                (b"x-asks", b"%d" % number),
                (b"x-refuse", b"0"),
            ]
            assert found[0].admitted == "yes"
        else:
            assert found is None
            request = heads.read(head + b"\r\n\r\n")
            reduced = known.reduce(request.headers)
            reduced.admitted = "yes"
            known.remember(head, request, reduced)
    assert b"CE-Subject:  a b " in known._lines
    assert not [line for line in known._lines if line.startswith(b"ce-id")]  # none comes again


@pytest.mark.parametrize("name", [b"ce-text", b"X-Asks"])
def test_a_head_with_a_long_line_that_differs_is_not_known(name):
    known = heads.Known("/echo", frozenset({b"x-refuse"}), frozenset({b"x-asks"}))
    for more in (b"", b"X-Asks: short\r\n"):
        head = post(b"abc", extra=b"%b: %b\r\n%b" % (name, b"x" * 600, more))[:-7]
        request = heads.read(head + b"\r\n\r\n")
        known.remember(head, request, known.reduce(request.headers))
        assert known.find(head) is None


V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + bytes(12)


@pytest.mark.parametrize("line", [b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 80\r\n", b"PROXY UNKNOWN\r\n", V2])
def test_the_proxy_protocol_is_refused(peer, line):
    peer.send(line + post(b"x"))
    assert peer.read()[0] == 400
    assert peer.ended()
