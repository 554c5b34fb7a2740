"""Requests that go past ASGI, over real sockets: HTTP/1.1 as RFC 9112 has it, beside requests that do not."""

import socket
import threading

import pytest

from tests.api.kit import HOST, Echo, Peer, post, serving

PLAIN = b"content-type: text/plain\r\ncontent-length: "


def test_a_request_is_answered_and_the_connection_goes_on(peer):
    for body in (b"one", b"", b"x" * 90_000):
        peer.send(post(body))
        assert peer.read()[:2] == (200, body)


def test_the_path_is_what_it_says_however_it_is_written(peer):
    for path in (b"/echo?a=b", b"/%65cho", b"http://localhost/echo"):
        peer.send(post(b"here", path))
        assert peer.read()[:2] == (200, b"here")


@pytest.mark.parametrize("request_", [b"GET /echo HTTP/1.1\r\n" + HOST + b"\r\n", post(b"", b"/echoes")])
def test_other_requests_are_asgi(peer, request_):
    peer.send(request_)
    assert peer.read()[1].startswith(b"/echo")


def test_answers_come_in_the_order_of_the_requests_whoever_answers_them(echo, peer):
    peer.send(post(b"later") + post(b"x", b"/asgi") + post(b"two") + post(b"y", b"/asgi"))
    while not echo.waiting:
        pass
    echo.release()
    assert [peer.read()[1] for _ in range(4)] == [b"released", b"/asgi:x", b"two", b"/asgi:y"]


def test_a_thousand_requests_may_stand_in_line(peer):
    peer.send(post(b"", extra=b"X-Refuse: 1\r\n") * 1000)
    assert {peer.read()[0] for _ in range(1000)} == {403}
    peer.send(post(b"still here"))
    assert peer.read()[1] == b"still here"


def test_a_body_may_come_in_pieces_and_chunks(peer):
    for part in (post(b"abcdef")[:-4], b"cd", b"ef"):
        peer.send(part)
    assert peer.read()[1] == b"abcdef"
    peer.send(
        b"POST /echo HTTP/1.1\r\n"
        + HOST
        + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"
    )
    assert peer.read()[1] == b"abcdef"


def test_who_asks_before_sending_a_body_is_told_to_go_on_or_not(peer):
    peer.send(b"POST /echo HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert peer.read()[0] == 100
    peer.send(b"hi")
    assert peer.read()[:2] == (200, b"hi")
    peer.send(
        b"POST /echo HTTP/1.1\r\n"
        + HOST
        + b"X-Refuse: 1\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    assert peer.read()[0] == 403


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused_and_not_kept(peer, chunked):
    head = b"POST /echo HTTP/1.1\r\n" + HOST
    if chunked:
        peer.send(
            head
            + b"Transfer-Encoding: chunked\r\n\r\n"
            + (b"8000\r\n" + b"x" * 0x8000 + b"\r\n") * 8
            + b"0\r\n\r\n"
        )
    else:
        peer.send(post(b"x" * 200_000))
    assert peer.read()[0] == 413
    peer.send(post(b"next"))
    assert peer.read()[1] == b"next"


def test_a_body_that_stands_still_is_given_up(peer):
    peer.send(post(b"abcdef")[:-1])
    assert peer.read()[0] == 408


def test_a_body_that_comes_slowly_is_not(peer):
    data = post(b"abcdef")
    peer.send(data[:-6])
    for at in range(6):
        threading.Event().wait(0.1)
        peer.send(data[len(data) - 6 + at :][:1])
    assert peer.read()[:2] == (200, b"abcdef")


def test_the_time_for_a_body_ends_with_the_body(echo, peer):
    data = post(b"later")
    peer.send(data[:-1])
    threading.Event().wait(0.1)
    peer.send(data[-1:])
    threading.Event().wait(2 * Echo.idle)
    echo.release()
    assert peer.read()[:2] == (200, b"released")


@pytest.mark.parametrize(("version", "extra"), [(b"1.0", b""), (b"1.1", b"Connection: close\r\n")])
def test_a_connection_that_is_to_end_ends_after_the_answer(peer, version, extra):
    peer.send(post(b"bye", extra=extra).replace(b"HTTP/1.1", b"HTTP/" + version))
    status, body, headers = peer.read()
    assert (status, body, headers[b"connection"]) == (200, b"bye", b"close")
    assert peer.ended()


def test_who_is_gone_before_the_answer_harms_nobody(app):
    with serving(app) as (port, _):
        gone, there = Peer(port), Peer(port)
        gone.send(post(b"later"))
        while not app.echo.waiting:
            pass
        gone.close()
        there.send(post(b"one"))
        assert there.read()[1] == b"one"
        app.echo.release()
        there.send(post(b"two"))
        assert there.read()[1] == b"two"
        there.close()


@pytest.mark.long
def test_an_idle_connection_ends_and_one_in_use_does_not(app):
    with serving(app, timeout_keep_alive=1) as (port, _):
        peer = Peer(port)
        for _ in range(4):
            peer.send(post(b"used"))
            assert peer.read()[1] == b"used"
            threading.Event().wait(0.5)
        peer.send(post(b"later"))
        while not app.echo.waiting:
            pass
        threading.Event().wait(1.5)  # its answer takes longer than an idle connection may
        app.echo.release()
        assert peer.read()[1] == b"released"
        assert peer.ended()
        peer.close()


def test_a_server_that_ends_waits_for_the_answer(app):
    with serving(app, timeout_graceful_shutdown=5) as (port, server):
        peer = Peer(port)
        peer.send(post(b"later"))
        while not app.echo.waiting:
            pass
        server.should_exit = True
        threading.Event().wait(0.3)
        app.echo.release()
        assert peer.read()[1] == b"released"
        assert peer.ended()
        peer.close()


def test_who_does_not_read_answers_is_not_read_from(app):
    with serving(app, timeout_graceful_shutdown=1) as (port, server):
        peer = Peer(port)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sock.settimeout(1.0)
        with pytest.raises(TimeoutError):
            peer.send(post(b"x" * 90_000) * 2000)
        assert server.server_state.total_requests < 1000  # 90 MB would be in memory by then
        peer.close()
