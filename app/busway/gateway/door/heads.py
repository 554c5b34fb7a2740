"""Heads of requests: parsing, limits, and recognition of heads that were parsed before.

`httptools` parses each head. Around it stands what it leaves to a server: limits, `Host`, the form of the
target, and offers to upgrade, which a server may ignore (RFC 9110, section 7.8) but at which the parser
stops.
"""

from __future__ import annotations

import re
import urllib.parse
from weakref import WeakKeyDictionary

import httptools
import msgspec

from busway.gateway.door.port import Client, Endpoint, Head, Headers, relevant
from busway.gateway.errors import BadRequest, HeadTooLarge, NotSupported

LONGEST_HEAD = 65_536  # bytes
MOST_FIELDS = 100
_KEPT_BYTES = 4_194_304  # of lines, and of heads
_KEPT_LINE = 512
_KEPT_LONG_LINE = 4_096  # of one that matters, such as a token
_KEPT_HEAD = 6_144
_OVERHEAD = 500  # bytes that a kept line or head takes besides its text

_FIELD = re.compile(rb"([A-Za-z0-9-]+):[ \t]*((?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?)[ \t]*")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~%!$&'()*+,;=-]*)(?::[0-9]{0,5})?")
_ABSOLUTE = re.compile(rb"https?://([^/?#]*)(.*)", re.IGNORECASE)
_OFFER = re.compile(rb"\r\nupgrade:[^\r\n]*", re.IGNORECASE)
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n)")

# Headers that decide how a connection goes on. They are never the ones in which known heads may differ.
_CONNECTION = frozenset(
    b"connection expect host keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)


class Request(msgspec.Struct, frozen=True, gc=False):
    """What a head says.

    `path` is decoded, `raw_path` and `query` are as they came. `length`: bytes of the body; None: it is
    chunked. `upgrade`: it offers to become a WebSocket. `client`: who sent it, if a proxy says so; None: the
    peer of the connection.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    version: str
    headers: Headers
    length: int | None
    keep_alive: bool
    expects: bool
    upgrade: bool
    client: Client | None = None

    def opens(self, path: str) -> bool:
        """Return whether it asks for a WebSocket at this path."""
        return self.upgrade and self.method == "GET" and self.path == path


def check_unfinished(head: bytes | bytearray, start: int) -> None:
    """Check what came of a head so far, from `start` on.

    Raises:
        HeadTooLarge: it is over its limit already.
        BadRequest: it can never become a head.
    """
    if len(head) > LONGEST_HEAD:
        raise _too_large()
    found = _BARE.search(head, max(0, start - 1))
    if found and (found[0] == b"\n" or found.end() < len(head)):
        raise BadRequest("a line of the head does not end with CR LF")


class _Collector:
    """Receives the callbacks of httptools."""

    def __init__(self) -> None:
        self.headers: Headers = []
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.complete = True


def read(head: bytes) -> Request:
    """Read a whole head, which ends with an empty line.

    Raises:
        HeadTooLarge: it has too many bytes or fields.
        BadRequest: it is not HTTP/1.0 or HTTP/1.1 as RFC 9110 and RFC 9112 have it.
        NotSupported: its body is coded in another way than in chunks.
    """
    if len(head) > LONGEST_HEAD or head.count(b"\n") > MOST_FIELDS + 2:
        raise _too_large()
    line = head[: head.index(b"\r\n")].split(b" ")
    if line[0] == b"PROXY":
        raise BadRequest("the PROXY protocol is not supported: turn it off in the proxy")
    if len(line) != 3 or line[2] not in {b"HTTP/1.1", b"HTTP/1.0"}:
        raise BadRequest("the request line is not METHOD TARGET HTTP/1.1")
    if b"\r\n " in head or b"\r\n\t" in head:
        raise BadRequest("a header field goes over several lines")
    method, target, version = line[0].decode("latin-1"), line[1], line[2][5:].decode()
    if method == "CONNECT":
        raise NotSupported("this server is not a proxy")
    offers = [offer.partition(b":")[2] for offer in _OFFER.findall(head)]
    headers = _parse(_OFFER.sub(b"", head) if offers else head)
    hosts = [value for name, value in headers if name == b"host"]
    host = _check_host(hosts, version)
    path, query = _split(target, host)
    closes, upgrades = _connection(headers)
    length = _length(headers, version)
    return Request(
        method=method,
        path=urllib.parse.unquote(path.decode("ascii")),
        raw_path=path,
        query=query,
        version=version,
        headers=headers,
        length=length,
        keep_alive=version == "1.1" and not closes,
        expects=version == "1.1" and any(n == b"expect" and v.lower() == b"100-continue" for n, v in headers),
        upgrade=upgrades
        and version == "1.1"
        and any(token.strip().lower() == b"websocket" for offer in offers for token in offer.split(b",")),
    )


def _parse(head: bytes) -> Headers:
    found = _Collector()
    try:
        httptools.HttpRequestParser(found).feed_data(head)
    except httptools.HttpParserError as problem:
        raise BadRequest(f"the head cannot be parsed: {str(problem)[:200]}") from None
    if not found.complete:
        raise BadRequest("the head cannot be parsed")
    return found.headers


def _check_host(hosts: list[bytes], version: str) -> bytes:
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise BadRequest("send exactly one Host header")
    host = hosts[0] if hosts else b""
    if not _HOST.fullmatch(host):
        raise BadRequest(f"the Host header is no HOST or HOST:PORT: {host[:100].decode('latin-1')!r}")
    return host


def _split(target: bytes, host: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a target in origin form or, for this very host, in absolute form."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute:
        if absolute[1].lower() != host.lower():
            raise BadRequest("the target names another host than the Host header")
        target = absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]
    if not target.isascii() or b"#" in target or not (target.startswith(b"/") or target == b"*"):
        raise BadRequest("the target is not an absolute path, %-encoded, and an optional query")
    path, _, query = target.partition(b"?")
    return path, query


def _connection(headers: Headers) -> tuple[bool, bool]:
    tokens = {
        token.strip().lower()
        for name, value in headers
        if name == b"connection"
        for token in value.split(b",")
    }
    return b"close" in tokens, b"upgrade" in tokens


def _length(headers: Headers, version: str) -> int | None:
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    lengths = [value for name, value in headers if name == b"content-length"]
    if codings:
        if lengths or version == "1.0":
            raise BadRequest("Transfer-Encoding stands beside Content-Length, or in HTTP/1.0")
        if len(codings) > 1 or codings[0].strip().lower() != b"chunked":
            raise NotSupported("of transfer codings only chunked is taken")
        return None
    if not lengths:
        return 0
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]):
        raise BadRequest("Content-Length is one number of bytes")
    return int(lengths[0])


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"a head has at most {LONGEST_HEAD} bytes and {MOST_FIELDS} fields: send fewer or shorter ones"
    )


# Headers whose values hardly ever repeat: to remember their lines would only push others out.
_UNIQUE = (b"ce-id:", b"ce-time:", b"ce-traceparent:", b"traceparent:", b"x-request-id:", b"idempotency-key:")


class _Lines(dict[bytes, bool]):
    """Whether a head is known by a line, for lines of heads that were admitted.

    Attributes:
        lengths: of Content-Length lines, one more than they say, so that none is falsy.
        data: headers of lines that carry a part of the event, which differ from request to request.
        fresh: what was found out about other lines, and is forgotten unless their head is known.
    """

    def __init__(self, looks_at: frozenset[bytes], carries: frozenset[bytes]) -> None:
        super().__init__()
        self.lengths: dict[bytes, int] = {}
        self.data: dict[bytes, tuple[bytes, bytes]] = {}
        self.fresh: list[tuple[bytes, bool, int, tuple[bytes, bytes] | None]] = []
        self._looks_at, self._carries = looks_at | _CONNECTION, carries
        self._bytes = 0

    def __missing__(self, line: bytes) -> bool:
        field = _FIELD.fullmatch(line)
        matters, length, data = True, 0, None
        if field is not None:
            name = field[1].lower()
            if name == b"content-length" and re.fullmatch(rb"[0-9]{1,18}", field[2]):
                matters, length = False, int(field[2]) + 1
            elif self.carries(name):
                matters = len(line) > _KEPT_LINE
                data = None if matters else (name, field[2])
            else:
                matters = name in self._looks_at or name == b"content-length"
        self.fresh.append((line, matters, length, data))
        return matters

    def carries(self, name: bytes) -> bool:
        """Return whether headers with this name differ from request to request."""
        return (name.startswith(b"ce-") or name in self._carries) and name not in self._looks_at

    def keep(self) -> Headers:
        """Keep the fresh lines: their head is known. Return the headers of those that are not kept."""
        passing: Headers = []
        for line, matters, length, data in self.fresh:
            if not matters and line.lower().startswith(_UNIQUE):
                if data is not None:
                    passing.append(data)
                continue
            if len(line) > (_KEPT_LONG_LINE if matters else _KEPT_LINE) and not length:
                continue
            self._bytes += 4 * len(line) + _OVERHEAD
            if self._bytes > _KEPT_BYTES:
                self._bytes = 0
                self.clear()
                self.lengths.clear()
                self.data.clear()
            self[line] = matters
            if length:
                self.lengths[line] = length
            if data is not None:
                self.data[line] = data
        self.fresh.clear()
        return passing


class Known:
    """Heads of requests to an endpoint that were admitted before.

    A head is known by its request line and by the lines that matter, byte for byte: others may differ from
    request to request, such as `traceparent`, `ce-id` or `user-agent`, if each is a plain field of printable
    ASCII. The parser accepted the lines that matter; plain fields of other names change nothing of what it
    made of them. Heads here are without the empty line at their end.
    """

    def __init__(
        self, path: str, looks_at: frozenset[bytes], carries: frozenset[bytes] = frozenset()
    ) -> None:
        self.path = path
        self._lines = _Lines(looks_at, carries)
        self._heads: dict[tuple[bytes, ...], Head] = {}
        self._bytes = 0
        self.looks_at, self.carries = looks_at, carries

    def find(self, head: bytes) -> tuple[Head, int] | None:
        """Return a known head and the length of its body; None if the head is not known."""
        lines = head.split(b"\r\n")
        kept = self._lines
        known = self._heads.get(tuple(filter(kept.__getitem__, lines)))
        passing: Headers = []
        if kept.fresh:
            if known is None:
                kept.fresh.clear()
            else:
                passing = kept.keep()
        if known is None or len(lines) > MOST_FIELDS + 1 or len(head) > LONGEST_HEAD - 4:
            return None
        lengths = [*filter(None, map(kept.lengths.get, lines))]
        if len(lengths) != 1:
            return None
        data = [*filter(None, map(kept.data.get, lines)), *passing] if kept.data or passing else None
        if data:
            shared = known
            known = Head(shared.headers + data)
            known.admitted, known.share = shared.admitted, shared.share
        return known, lengths[0] - 1

    def reduce(self, headers: Headers) -> Head:
        """Return a head with only the headers that the endpoint reads."""
        return Head(relevant(self.looks_at | self.carries, headers))

    def remember(self, head: bytes, request: Request, reduced: Head) -> None:
        """Remember the head of an admitted request, if it is plain and has a fixed length."""
        lines = head.split(b"\r\n")
        plain = all(_FIELD.fullmatch(line) for line in lines[1:])
        if not plain or request.length is None or request.expects or not request.keep_alive:
            return
        key = tuple(filter(self._lines.__getitem__, lines))
        size = sum(map(len, key))
        long = any(self._lines.carries(line.partition(b":")[0].lower()) for line in key)
        if size > _KEPT_HEAD or long:  # what differs from request to request is not kept with the head
            self._lines.fresh.clear()
            return
        self._lines.keep()
        self._bytes += 4 * size + _OVERHEAD
        if self._bytes > _KEPT_BYTES:
            self._bytes = 0
            self._heads.clear()
        shared = Head([h for h in reduced.headers if h[0] in self.looks_at])
        shared.admitted, shared.share = reduced.admitted, reduced.share
        self._heads[key] = shared


_KNOWN: WeakKeyDictionary[Endpoint, Known] = WeakKeyDictionary()


def known_to(endpoint: Endpoint) -> Known:
    """Return the heads that are known of an endpoint's requests, the same for all connections."""
    found = _KNOWN.get(endpoint)
    if found is None:
        found = _KNOWN[endpoint] = Known(endpoint.path, endpoint.looks_at, endpoint.carries)
    return found
