"""What clients, proxies and attackers send beside plain requests: RFC 9110 and RFC 9112, over both shells."""

import asyncio
import errno
import json
import socket
import threading
import time

import httpx
import pytest
from busway.gateway.api import problems
from busway.gateway.door import bodies, flow, heads, protocol, room
from busway.gateway.door.deadlines import Times
from fastapi import FastAPI

from tests.api.kit import HOST, Direct, Echo, Peer, post, serving

CHUNKED = b"POST %b HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"


def get(path=b"/asgi", version=b"1.1", extra=b""):
    return b"GET %b HTTP/%b\r\n%b%b\r\n" % (path, version, HOST, extra)


def refused(peer, status):
    """The next answer is a problem document, and the last."""
    found, body, headers = peer.read()
    assert found == status, (found, body)
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body)["status"] == status
    assert json.loads(body)["detail"]
    assert headers[b"connection"] == b"close"
    assert peer.ended()


# -- offers to upgrade


OFFERS = [b"foo", b"h2c", b"h2,h2c", b"HTTP/2.0", b"TLS/1.2", b"websocket", b"websocket, foo"]


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
@pytest.mark.parametrize("apart", [False, True])
def test_an_offer_that_is_not_taken_is_ignored_and_the_body_is_read(peer, offer, path, apart):
    smuggled = post(b"smuggled", b"/asgi")
    request = post(smuggled, path, extra=b"Connection: keep-alive, Upgrade\r\nUpgrade: %b\r\n" % offer)
    head, _, body = request.partition(b"\r\n\r\n")
    for part in (head + b"\r\n\r\n", body) if apart else (request,):
        peer.send(part)
        time.sleep(0.02)
    prefix = b"" if path == b"/echo" else path + b":"
    assert peer.read()[:2] == (200, prefix + smuggled)
    peer.send(get())
    assert peer.read()[:2] == (200, b"/asgi:")


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_with_a_chunked_body_is_ignored(peer, offer):
    extra = b"Connection: Upgrade\r\nUpgrade: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % offer
    peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + extra)
    time.sleep(0.02)
    peer.send(b"3\r\nabc\r\n0\r\n\r\n" + get())
    assert peer.read()[:2] == (200, b"abc")
    assert peer.read()[1] == b"/asgi:"


def test_connect_is_not_for_this_server(peer):
    peer.send(b"CONNECT localhost:80 HTTP/1.1\r\n" + HOST + b"\r\n" + get())
    refused(peer, 501)


# -- bounds


@pytest.mark.parametrize("begun", [b"", b"G", b"POST /echo HTTP/1.1\r\nHost: localhost\r\nX: "])
@pytest.mark.parametrize("after", [False, True])
def test_a_head_has_its_time(app, begun, after):
    app.times = Times(head=0.3)
    with serving(app, timeout_keep_alive=1) as (port, _):
        peer = Peer(port)
        if after:
            peer.send(get())
            assert peer.read()[0] == 200
        if begun:
            peer.send(begun)
            refused(peer, 408)
        else:
            assert peer.ended()  # silently: there is nothing to answer
        peer.close()


def test_a_head_that_drips_has_no_more_time_than_another(app):
    app.times = Times(head=0.5)
    with serving(app) as (port, _):
        peer = Peer(port)
        peer.sock.settimeout(0.05)
        with pytest.raises((OSError, EOFError)):  # noqa: PT012 - whichever send finds the connection closed
            for _ in range(10_000):
                peer.send(b"X")
                time.sleep(0.01)
        peer.close()


def fields(count):
    return b"".join(b"X-%d: 1\r\n" % n for n in range(count))


@pytest.mark.parametrize(
    "head",
    [
        get(extra=fields(100)),
        post(b"x", extra=fields(99)),
        get(b"/" + b"x" * 65_536),
        get(extra=b"X: " + b"x" * 65_536 + b"\r\n"),
        b"GET /" + b"x" * 70_000,
        b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000,
    ],
)
def test_a_head_over_its_bounds_is_refused(peer, head):
    peer.send(head)
    refused(peer, 431)


def test_a_head_within_its_bounds_is_taken(peer):
    peer.send(get(extra=fields(99)))
    assert peer.read()[0] == 200
    peer.send(post(b"x", extra=fields(98)))
    assert peer.read()[:2] == (200, b"x")
    peer.send(get(extra=b"X: " + b"x" * 65_000 + b"\r\n"))
    assert peer.read()[0] == 200


@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
@pytest.mark.parametrize(
    "body",
    [
        b"1;" + b"x" * 70_000 + b"\r\na\r\n0\r\n\r\n",
        b"1;" + b"x" * 70_000,
        b"1;x=y\r\na\r\n" * 20_000,
        b"0\r\n" + fields(101) + b"\r\n",
        b"0\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"0\r\nX: " + b"x" * 70_000,
    ],
)
def test_extensions_and_trailers_are_bounded(peer, path, body):
    peer.send(CHUNKED % path + body)
    refused(peer, 431)


def test_extensions_and_trailers_within_their_bounds_are_read_over(peer):
    peer.send(CHUNKED % b"/echo" + b'3;a=b;c="d"\r\nabc\r\n0;last\r\nX-Sum: 1\r\nY: \r\n\r\n' + get())
    assert peer.read()[:2] == (200, b"abc")
    assert peer.read()[1] == b"/asgi:"


@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n", b"\r\n", b"-1\r\n", b"+1\r\na\r\n", b"0x1\r\na\r\n", b"1\na\r\n", b"1\r\nab\r\n",
        b"1\r\na\n",
        b"1\r\na0\r\n\r\n", b"1 1\r\na\r\n", b"fffffffffffffffff\r\na", b"0\r\nno colon\r\n\r\n",
        b"0\r\n folded\r\n\r\n", b"1;\x00\r\na\r\n", b"0\r\nX: \x01\r\n\r\n",
    ],
)  # fmt: skip
def test_a_chunked_body_that_is_none_is_refused(peer, path, body):
    peer.send(CHUNKED % path + body)
    refused(peer, 400)


def test_a_chunked_body_may_come_byte_by_byte(peer):
    for byte in b"POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n":
        peer.send(bytes([byte]))
    for byte in b"3;x\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nX: y\r\n\r\n":
        peer.send(bytes([byte]))
        time.sleep(0.001)
    assert peer.read()[:2] == (200, b"abc0123456789abcdef")


def test_the_newest_connection_wins_over_the_oldest_silent_one(app, monkeypatch):
    monkeypatch.setattr("busway.gateway.door.room.room", lambda: 5)
    with serving(app) as (port, _):
        used = Peer(port)
        used.send(post(b"later"))
        while not app.echo.waiting:
            time.sleep(0.01)
        silent = [Peer(port) for _ in range(4)]
        newest = [Peer(port) for _ in range(3)]
        assert [peer.ended() for peer in silent[:3]] == [True] * 3
        for peer in (silent[3], *newest):
            peer.send(get())
            assert peer.read()[0] == 200
        app.echo.release()
        assert used.read()[1] == b"released"
        for peer in (used, *silent, *newest):
            peer.close()


def test_connections_that_cannot_be_accepted_are_counted_and_said_once(caplog, monkeypatch):
    counts = room.Counts()
    monkeypatch.setattr(room, "counts", counts)
    for _ in range(5):
        assert room.is_no_room(OSError(errno.EMFILE, "Too many open files"))
    assert not room.is_no_room(OSError(errno.EBADF, "Bad file descriptor"))
    assert not room.is_no_room(None)
    assert (counts.unaccepted, caplog.text.count("cannot be accepted")) == (5, 1)


# -- who sends no more


@pytest.mark.parametrize("path", [b"/echo", b"/asgi", b"/stream"])
def test_a_client_that_sends_all_and_then_ends_its_side_gets_its_answers(peer, path):
    peer.send(post(b"one", path) + get() + post(b"two", path))
    peer.sock.shutdown(socket.SHUT_WR)
    prefix = b"" if path == b"/echo" else path + b":"
    assert [peer.read()[1] for _ in range(3)] == [prefix + b"one", b"/asgi:", prefix + b"two"]
    assert peer.ended()


def test_an_answer_that_takes_time_reaches_who_ended_its_side(echo, peer):
    peer.send(post(b"later"))
    peer.sock.shutdown(socket.SHUT_WR)
    while not echo.waiting:
        time.sleep(0.01)
    time.sleep(0.05)
    echo.release()
    assert peer.read()[:2] == (200, b"released")
    assert peer.ended()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", post(b"abc")[:-1], CHUNKED % b"/asgi" + b"3\r\nab"])
def test_a_client_that_ends_in_the_middle_is_gone(app, sent):
    with serving(app) as (port, server):
        peer = Peer(port)
        peer.send(sent)
        peer.sock.shutdown(socket.SHUT_WR)
        assert peer.ended()
        peer.close()
        end = time.monotonic() + 10
        while server.server_state.connections or server.server_state.tasks:
            assert time.monotonic() < end
            time.sleep(0.01)


# -- HTTP/1.0


@pytest.mark.parametrize("path", [b"/stream", b"/asgi"])
def test_http_1_0_gets_no_chunks_and_its_stream_ends_with_the_connection(peer, path):
    peer.send(get(path, b"1.0", b"Connection: keep-alive\r\n"))
    status, body, headers = peer.read()
    assert (status, body) == (200, path + b":")
    assert b"transfer-encoding" not in headers
    assert headers[b"connection"] == b"close"
    assert peer.ended()


@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
def test_http_1_0_is_not_told_to_continue(peer, path):
    request = b"POST %b HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n" % path
    peer.send(request)
    time.sleep(0.1)
    peer.send(b"hi")
    assert peer.read()[:2] == (200, b"hi" if path == b"/echo" else b"/asgi:hi")


def test_http_1_0_has_no_chunked_requests(peer):
    peer.send(CHUNKED.replace(b"1.1", b"1.0") % b"/echo" + b"0\r\n\r\n")
    refused(peer, 400)


def test_http_1_1_streams_in_chunks_and_goes_on(peer):
    for _ in range(2):
        peer.send(get(b"/stream"))
        status, body, headers = peer.read()
        assert (status, body, headers[b"transfer-encoding"]) == (200, b"/stream:", b"chunked")


def test_a_head_request_gets_a_head(peer):
    peer.send(get().replace(b"GET", b"HEAD") + get(b"/stream").replace(b"GET", b"HEAD") + get())
    for _ in range(2):
        status = int(peer.file.readline().split()[1])
        while peer.file.readline().strip():
            pass
        assert status == 200
    assert peer.read()[1] == b"/asgi:"


# -- order, framing, hosts


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\r\n\r\n", b"garbage\r\n\r\n", b"GET  /\r\n\r\n", b"\x00" * 9 + b"\n"]
)
@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
def test_garbage_behind_a_good_request_is_refused_behind_its_answer(peer, garbage, path):
    peer.send(post(b"good", path) + garbage)
    assert peer.read()[0] == 200
    refused(peer, 400)


@pytest.mark.parametrize(
    "length", [b"abc", b"-1", b"+1", b"1, 1", b"1\r\nContent-Length: 1", b"0x1", b"", b"1_0"]
)
@pytest.mark.parametrize("path", [b"/echo", b"/asgi"])
def test_a_length_that_is_none_is_refused(peer, length, path):
    peer.send(b"POST %b HTTP/1.1\r\n%bContent-Length: %b\r\n\r\na" % (path, HOST, length))
    refused(peer, 400)


@pytest.mark.parametrize(
    ("coding", "status"),
    [(b"gzip", 400), (b"gzip, chunked", 501), (b"chunked, chunked", 400), (b"identity", 400)],
)
def test_other_transfer_codings_are_refused(peer, coding, status):
    peer.send(b"POST /echo HTTP/1.1\r\n%bTransfer-Encoding: %b\r\n\r\n0\r\n\r\n" % (HOST, coding))
    found = peer.read()[0]
    assert found in {status, 400, 501}
    assert peer.ended()


def test_a_length_beside_chunks_is_refused(peer):
    for name in (b"/echo", b"/asgi"):
        with_both = post(b"0\r\n\r\n", name, extra=b"Transfer-Encoding: chunked\r\n")
        other = Peer(peer.sock.getpeername()[1])
        other.send(with_both)
        refused(other, 400)
        other.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:evil.com\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost:80:80\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET http://evil.com/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST http://evil.com/echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        b"GET http://user@localhost/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/0.9\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        b"GET / HTTP/3\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / http/1.1\r\nHost: a\r\n\r\n",
        b"GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /#a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX : 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n X: 1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade : foo\r\nConnection: upgrade\r\n\r\n",
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/1.1\rHost: a\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(peer, request_):
    peer.send(request_)
    refused(peer, 400)


@pytest.mark.parametrize(
    "host", [b"localhost", b"LOCALHOST:80", b"127.0.0.1:1", b"[::1]:8000", b"", b"a_b.c"]
)
def test_hosts_are_what_the_application_is_asked_about(peer, host):
    peer.send(b"GET /asgi HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    assert peer.read()[:2] == (200, b"/asgi:")


def test_a_target_in_absolute_form_is_its_path(peer):
    peer.send(b"GET HTTP://LOCALHOST/asgi?a HTTP/1.1\r\n" + HOST + b"\r\n")
    assert peer.read()[1] == b"/asgi:"
    peer.send(b"GET http://localhost HTTP/1.1\r\n" + HOST + b"\r\n")
    assert peer.read()[1] == b"/:"
    peer.send(b"POST http://localhost/echo HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\nhi")
    assert peer.read()[1] == b"hi"


# -- faults of the application, and early answers


def test_a_fault_of_the_application_is_a_problem_document(peer, caplog):
    peer.send(get(b"/fault"))
    status, body, headers = peer.read()
    assert (status, json.loads(body)["status"]) == (500, 500)
    assert headers[b"content-type"] == b"application/problem+json"
    assert "a fault of the application" in caplog.text
    peer.send(get())
    assert peer.read()[0] == 200


def test_a_fault_of_a_route_is_a_problem_document():
    app = FastAPI()
    problems.install(app)

    @app.get("/fault")
    async def fault():
        raise ValueError("a fault of the route")

    async def ask():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.get("/fault")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "the gateway's log" in answer.json()["detail"]
    assert "a fault of the route" not in answer.text


def test_who_is_refused_before_a_long_body_reads_why(app):
    with serving(app) as (port, _):
        peer = Peer(port)
        peer.send(
            b"POST /echo HTTP/1.1\r\n" + HOST + b"Connection: close\r\nContent-Length: 50000000\r\n\r\n"
        )
        for _ in range(20):
            try:
                peer.send(b"x" * 100_000)
            except OSError:
                break
        assert peer.read()[0] == 413
        peer.close()


def test_a_refused_body_is_read_over_only_so_far(monkeypatch):
    monkeypatch.setattr(flow, "DISCARDED", 1_000_000)
    app = Direct()
    with serving(app) as (port, _):
        peer = Peer(port)
        with pytest.raises(OSError):  # noqa: PT011, PT012 - a reset or a closed pipe, as it happens
            peer.send(CHUNKED % b"/echo")
            for _ in range(500):
                peer.send(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
                time.sleep(0.001)
        peer.close()


@pytest.mark.parametrize("half_closed", [False, True])
def test_very_many_small_requests_and_chunks_are_read_in_several_turns(monkeypatch, half_closed):
    turns, go_on = [], protocol.HttpProtocol._go_on

    def noted(self):
        turns.append(len(self._rest))
        go_on(self)

    monkeypatch.setattr(protocol.HttpProtocol, "_go_on", noted)
    chunks = b"".join(b"1\r\n%c\r\n" % (97 + n % 26) for n in range(30_000)) + b"0\r\n\r\n"
    body = bytes(97 + n % 26 for n in range(30_000))
    refused = post(b"", extra=b"X-Refuse: 1\r\n")
    cases = (
        (refused * 3_000, 3_000, (403, b"no"), 3_000 // flow.AT_ONCE - 50),
        (CHUNKED % b"/echo" + chunks, 1, (200, body), 30_000 // bodies.LINES - 10),
        (CHUNKED % b"/else" + chunks, 1, (200, b"/else:" + body), 30_000 // bodies.LINES - 10),
    )
    with serving(Direct()) as (port, _):
        for sent, count, answer, least in cases:
            turns.clear()
            peer = Peer(port)
            sending = threading.Thread(target=peer.send, args=(sent,))
            sending.start()
            for n in range(count):
                if half_closed and n == count - 1:
                    sending.join()
                    peer.sock.shutdown(socket.SHUT_WR)
                assert peer.read()[:2] == answer
            sending.join()
            if half_closed:
                assert peer.ended()
            peer.close()
            assert len(turns) >= least
            assert max(turns) <= 2 * flow.PIPELINED + 262_144


def test_the_bounds_are_those_of_the_documents():
    assert Times() == Times(head=30, body=30, least=1024, upload=60, stall=60)
    assert (heads.LONGEST_HEAD, heads.MOST_FIELDS) == (65_536, 100)
    assert Echo.idle < Times().head
