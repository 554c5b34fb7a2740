"""A server whose application has an endpoint, reached past ASGI or through it; a client of plain sockets."""

import asyncio
import contextlib
import socket
import threading

import uvicorn
from busway.gateway.door import asgi
from busway.gateway.door.port import Answer, header_line
from busway.gateway.door.protocol import HttpProtocol

PATIENCE = 60.0
HOST = b"Host: localhost\r\n"


class Echo:
    """Answers with the body; `later` waits until `release`, and `wait` until the client sends no more."""

    path = "/echo"
    looks_at, carries = frozenset({b"x-refuse"}), frozenset({b"x-asks"})
    max_body = 100_000
    idle, least = 0.2, 0

    def __init__(self):
        self.loop = None
        self.waiting = []

    def admit(self, head):
        self.loop = asyncio.get_running_loop()
        if (b"x-refuse", b"1") in head.headers:
            return text(403, b"no")
        head.admitted = self
        return None

    def take(self, head, body, respond):
        if body == b"wait":
            self.waiting.append(respond)
            return lambda: self.hurry(respond)
        if body == b"later":
            self.waiting.append(respond)
        else:
            respond(text(200, body))
        return None

    def hurry(self, respond):
        if respond in self.waiting:
            self.waiting.remove(respond)
            respond(text(200, b"hurried"))

    def too_large(self, head):
        return text(413, b"too large")

    def too_slow(self, head):
        return text(408, b"too slow")

    def release(self):
        respond = self.waiting.pop(0)
        self.loop.call_soon_threadsafe(respond, text(200, b"released"))


def text(status, body):
    return Answer(status, b"".join(map(header_line, named(body))), body)


def named(body):
    return [(b"content-type", b"text/plain"), (b"content-length", b"%d" % len(body))]


class App:
    """Has the endpoint on a path, and shows what it is asked everywhere else."""

    def __init__(self):
        self.echo = Echo()

    async def __call__(self, scope, receive, send):
        if scope["method"] == "POST" and scope["path"] == Echo.path:
            await asgi.publish(self.echo, scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] == "/fault":
            raise ValueError("a fault of the application")
        shown = scope["path"].encode() + b":" + body
        headers = [] if scope["path"] == "/stream" else named(shown)
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": shown})


class Direct(App):
    """The same, but the door gives requests to the endpoint itself."""

    @property
    def publish(self):
        return self.echo


class Peer:
    """A client that reads one response after another."""

    def __init__(self, port):
        self.sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self.file = self.sock.makefile("rb")

    def send(self, data):
        self.sock.sendall(data)

    def read(self):
        first = self.file.readline()
        if not first:
            raise EOFError("the connection ended")
        status = int(first.split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        if headers.get(b"transfer-encoding") == b"chunked":
            return status, self._chunks(), headers
        if b"content-length" not in headers and status >= 200 and headers.get(b"connection") == b"close":
            return status, self.file.read(), headers
        return status, self.file.read(int(headers.get(b"content-length", 0))), headers

    def _chunks(self):
        body = b""
        while size := int(self.file.readline(), 16):
            body += self.file.read(size)
            self.file.readline()
        self.file.readline()
        return body

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
        "http": HttpProtocol,
        "ws": "none",
        "loop": "uvloop",
        "lifespan": "off",
        "log_config": None,
        "proxy_headers": False,
        "timeout_keep_alive": 600,  # the server ends no connection while a busy machine lets its test wait
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


def post(body, path=b"/echo", extra=b""):
    return b"POST %b HTTP/1.1\r\n%b%bContent-Length: %d\r\n\r\n%b" % (path, HOST, extra, len(body), body)
