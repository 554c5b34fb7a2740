"""Requests that go past ASGI, over real sockets: HTTP/1.1 as RFC 9112 has it, beside requests that do not."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.direct import Answer, line
from app.cork import CorkedHttp
from app.exchange import _KNOWN, LONGEST_HEAD, MOST_HEADS

PATIENCE = 10.0
HOST = b"Host: localhost\r\n"
PLAIN = b"content-type: text/plain\r\ncontent-length: "


class Echo:
    """Answers with the body; a body `later` waits until `release`."""

    path = "/echo"
    max_body = 100_000
    idle = 0.2

    def __init__(self):
        self.loop = None
        self.waiting = []

    def admit(self, head):
        self.loop = asyncio.get_running_loop()
        return text(403, b"no") if (b"x-refuse", b"1") in head.headers else None

    def take(self, head, body, respond):
        if body == b"later":
            self.waiting.append(respond)
        else:
            respond(text(200, body))

    def too_large(self, head):
        return text(413, b"too large")

    def too_slow(self, head):
        return text(408, b"too slow")

    def release(self):
        respond = self.waiting.pop(0)
        self.loop.call_soon_threadsafe(respond, text(200, b"released"))


def text(status, body):
    return Answer(status, b"".join(map(line, named(body))), body)


def named(body):
    return [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]


class App:
    def __init__(self):
        self.direct = Echo()

    async def __call__(self, scope, receive, send):
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        shown = scope["path"].encode() + b":" + body
        await send({"type": "http.response.start", "status": 200, "headers": named(shown)})
        await send({"type": "http.response.body", "body": shown})


class Peer:
    """A client that reads one response after another."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)

    def read(self):
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        return status, self.file.read(int(headers.get(b"content-length", 0))), headers

    def close(self):
        self.file.close()
        self.sock.close()

    def ended(self):
        return self.file.read(1) == b""


@contextlib.contextmanager
def serving(app, **options):
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    known = {
        "http": CorkedHttp,
        "loop": "uvloop",
        "lifespan": "off",
        "log_config": None,
        "proxy_headers": False,
    }
    server = uvicorn.Server(uvicorn.Config(app, **(known | options)))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]))
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
        yield listener.getsockname()[1], server
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def app():
    return App()


@pytest.fixture
def peer(app):
    with serving(app) as (port, _):
        peer = Peer(port)
        yield peer
        peer.close()


def post(body, path=b"/echo", extra=b""):
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HOST, extra, len(body), body)


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


def test_answers_come_in_the_order_of_the_requests_whoever_answers_them(app, peer):
    peer.send(post(b"later") + post(b"x", b"/asgi") + post(b"two") + post(b"y", b"/asgi"))
    while not app.direct.waiting:
        pass
    app.direct.release()
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


def test_the_time_for_a_body_ends_with_the_body(app, peer):
    data = post(b"later")
    peer.send(data[:-1])
    threading.Event().wait(0.1)
    peer.send(data[-1:])
    threading.Event().wait(2 * Echo.idle)
    app.direct.release()
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
        while not app.direct.waiting:
            pass
        gone.close()
        there.send(post(b"one"))
        assert there.read()[1] == b"one"
        app.direct.release()
        there.send(post(b"two"))
        assert there.read()[1] == b"two"
        there.close()


def test_an_idle_connection_ends_and_one_in_use_does_not(app):
    with serving(app, timeout_keep_alive=1) as (port, _):
        peer = Peer(port)
        for _ in range(4):
            peer.send(post(b"used"))
            assert peer.read()[1] == b"used"
            threading.Event().wait(0.5)
        peer.send(post(b"later"))
        while not app.direct.waiting:
            pass
        threading.Event().wait(1.5)  # its answer takes longer than an idle connection may
        app.direct.release()
        assert peer.read()[1] == b"released"
        assert peer.ended()
        peer.close()


def test_a_server_that_ends_waits_for_the_answer(app):
    with serving(app, timeout_graceful_shutdown=5) as (port, server):
        peer = Peer(port)
        peer.send(post(b"later"))
        while not app.direct.waiting:
            pass
        server.should_exit = True
        threading.Event().wait(0.3)
        app.direct.release()
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


def whole(body, *more):
    head = [b"POST /echo HTTP/1.1", b"Host: localhost", *more, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*head, b"", body])


def test_requests_with_the_same_head_are_all_answered_with_their_own_body(peer):
    for body in (b"one", b"two", b"", b"six", b"four", b""):
        peer.send(whole(body))
        assert peer.read()[:2] == (200, body)


def test_a_known_head_in_front_of_other_bytes_means_what_it_always_means(app, peer):
    known = whole(b"abc")
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
    peer.send(whole(b"no", b"X-Refuse: 1"))
    assert peer.read()[:2] == (403, b"no")
    peer.send(known.replace(b"/echo", b"/asgi"))
    assert peer.read()[1] == b"/asgi:abc"
    peer.send(known)
    assert peer.read()[1] == b"abc"


def test_empty_lines_behind_an_empty_body_are_no_request(peer):
    peer.send(whole(b""))
    assert peer.read()[:2] == (200, b"")
    for _ in range(3):
        peer.send(b"\r\n\r\n")
    peer.send(whole(b"next"))
    assert peer.read()[:2] == (200, b"next")


def test_a_body_behind_a_known_head_may_come_in_parts(app, peer):
    head, body = whole(b"0123456789").split(b"\r\n\r\n")
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
    assert len(_KNOWN[app.direct]) == 1


def test_what_is_chunked_expected_or_ends_its_connection_is_never_known(app):
    chunked = b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    closing = whole(b"bye", b"Connection: close")
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


def test_requests_with_a_known_head_wait_for_the_answers_before_them(app, peer):
    for _ in range(2):
        peer.send(whole(b"first"))
        assert peer.read()[1] == b"first"
    peer.send(whole(b"later"))
    while not app.direct.waiting:
        time.sleep(0.01)
    peer.send(whole(b"behin"))
    time.sleep(0.1)
    app.direct.release()
    assert [peer.read()[1] for _ in range(2)] == [b"released", b"behin"]


def test_who_goes_while_several_requests_wait_in_line_leaves_nothing_behind(app, caplog):
    with serving(app) as (port, server):
        peer = Peer(port)
        for body in (b"first", b"later"):
            peer.send(whole(body))
        assert peer.read()[1] == b"first"
        while not app.direct.waiting:
            time.sleep(0.01)
        for _ in range(3):
            peer.send(whole(b"later"))
            time.sleep(0.02)
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
        peer.close()
        until = time.monotonic() + PATIENCE
        while server.server_state.connections and time.monotonic() < until:
            if app.direct.waiting:  # nothing is read of it meanwhile, so that only an answer finds it gone
                app.direct.release()
            time.sleep(0.01)
        assert not server.server_state.connections
        other = Peer(port)
        other.send(whole(b"other"))
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


def test_the_parser_sees_a_head_once(app, peer, monkeypatch):
    fed = []
    take = HttpToolsProtocol.data_received
    monkeypatch.setattr(
        HttpToolsProtocol, "data_received", lambda self, data: fed.append(data) or take(self, data)
    )
    for parts in ([whole(b"abc")], [whole(b"abc")], [whole(b"abc")[:-2], b"bc"], [whole(b"abc")]):
        for part in parts:
            peer.send(part)
            time.sleep(0.02)
        assert peer.read()[1] == b"abc"
    assert fed == [whole(b"abc")]


def test_however_requests_are_cut_into_pieces_each_gets_its_own_answer(app):
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    kinds = {
        "known": whole,
        "named": lambda body: whole(body, b"X-Name: a"),
        "asgi": lambda body: whole(body).replace(b"/echo", b"/asgi"),
        "chunked": lambda body: b"POST /echo HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
        + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n",
        "lines": lambda body: b"\r\n\r\n" + whole(body),
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
def test_a_body_that_stands_still_behind_another_request_is_given_up(app, peer, known):
    if known:
        peer.send(whole(b"12345"))
        assert peer.read()[1] == b"12345"
    peer.send(whole(b"later"))
    while not app.direct.waiting:
        time.sleep(0.01)
    peer.send(whole(b"12345")[:-1])
    time.sleep(0.05)
    app.direct.release()
    assert peer.read()[1] == b"released"
    assert peer.read()[:2] == (408, b"too slow")


def test_few_heads_are_kept_and_none_that_is_long(app, peer):
    for number in range(MOST_HEADS + 5):
        peer.send(whole(b"x", b"X-Number: %d" % number))
        assert peer.read()[1] == b"x"
    for _ in range(2):
        peer.send(whole(b"x", b"X-Long: " + b"y" * LONGEST_HEAD))
        assert peer.read()[1] == b"x"
    known = _KNOWN[app.direct]
    assert 0 < len(known) <= MOST_HEADS
    assert max(map(len, known)) <= LONGEST_HEAD
