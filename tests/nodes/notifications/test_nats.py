"""A node and a NATS server that refuses, fails, freezes, or carries messages that no node has sent."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from busway.gateway.nodes.notifications.nats import NatsNotifications
from busway.gateway.nodes.notifications.nats_url import read_broker
from busway.gateway.nodes.notifications.port import LARGEST, BrokerStatus
from busway.gateway.nodes.notifications.sealing import Seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.e2e.cells import UnreliableNats
from tests.servers.nats import NatsServer

from .kit import SECRET, Node, joined, run, until


def state(node: Node) -> BrokerStatus:
    assert isinstance(node.notifications, NatsNotifications)
    return node.notifications.status()


@contextlib.asynccontextmanager
async def node(url: str, *, epoch: str = "e1", connected: bool = True) -> Any:
    made = await joined(url, epoch)
    try:
        if connected:
            await until(lambda: state(made).connected)
        yield made
    finally:
        await made.close()


@pytest.fixture
def server() -> Iterator[NatsServer]:
    """A server for one test, not started yet."""
    made = NatsServer()
    yield made
    made.close()


def test_messages_that_no_node_of_the_cell_has_sent_are_ignored_and_counted(nats: NatsServer) -> None:
    good = Seal("e1", SECRET).close(b"7")
    hostile = {
        "size": [b"", b"x", good[:20], b"\x01" + bytes(LARGEST)],
        "version": [b"\x00" + good[1:], b"\x02" + good[1:], b"{" + bytes(60)],
        "seal": [
            Seal("e1", b"other").close(b"7"),
            Seal("e2", SECRET).close(b"7"),
            good[:-1] + b"8",
            good + b"8",
            b"\x01" + bytes(32),
        ],
    }

    async def main() -> None:
        async with node(nats.url()) as one, await client(nats.url()) as stranger:
            await until(lambda: one.quiet)
            before = one.heard
            for messages in hostile.values():
                for message in messages:
                    await stranger.publish("busway.e1", message)
            await stranger.publish("busway.e2", good)
            await stranger.publish("busway.e1.more", good)
            await stranger.publish("busway.e1", good, headers={"a": "ä\xff"})
            await until(lambda: state(one).received)
            await until(lambda: one.heard > before)
            assert state(one).ignored == {reason: len(messages) for reason, messages in hostile.items()}
            assert (state(one).received, one.heard) == (1, before + 1)

    run(main())


def test_cells_on_one_broker_do_not_hear_each_other(nats: NatsServer) -> None:
    async def main() -> None:
        async with node(nats.url()) as one, node(nats.url(), epoch="e2") as other, node(nats.url()) as same:
            heard = state(other).received
            one.notifications.notify(b"1")
            await until(lambda: state(same).received)
            assert (state(other).received, state(other).ignored) == (heard, {})

    run(main())


async def client(url: str) -> Any:
    return await nats.connect(url)


def refused(server: NatsServer, url: str) -> str:
    """What a node says about a server that refuses it."""

    async def main() -> str:
        async with node(url, connected=False) as one:
            await until(lambda: state(one).problem != "it has not been reached yet")
            assert not state(one).connected
            return str(state(one).problem)

    return run(main())


def accepted(url: str) -> None:
    async def main() -> None:
        async with node(url) as one, node(url) as other:
            one.notifications.notify(b"1")
            await until(lambda: state(other).received)

    run(main())


def test_users_and_tokens(server: NatsServer) -> None:
    server.set(authorization={"user": "me", "password": "p@ss,w:rd"})
    server.start()
    accepted(server.url(user="me:p%40ss%2Cw%3Ard"))
    assert refused(server, server.url(user="me:very-wrong")) == "Authorization Violation"
    assert refused(server, server.url()) == "Authorization Violation"
    server.kill()
    server.set(authorization={"token": "tok en"})
    server.start()
    accepted(server.url(user="tok%20en"))
    assert refused(server, server.url(user="another")) == "Authorization Violation"


def nkey(kind: int, private: bytes) -> str:
    raw = bytes([18 << 3 | kind >> 5, (kind & 31) << 3]) + private
    return base64.b32encode(raw + binascii.crc_hqx(raw, 0).to_bytes(2, "little")).decode().rstrip("=")


def test_nkeys(server: NatsServer, tmp_path: Path) -> None:
    private = Ed25519PrivateKey.generate()
    public = bytes([20 << 3]) + private.public_key().public_bytes_raw()
    known = base64.b32encode(public + binascii.crc_hqx(public, 0).to_bytes(2, "little")).decode()
    assert known.startswith("U")
    seed = nkey(20 << 3, private.private_bytes_raw())
    assert seed.startswith("SU")
    (tmp_path / "my.nk").write_text(seed + "\n")
    server.set(authorization={"users": [{"nkey": known}]})
    server.start()
    accepted(server.url() + f"?nkey={tmp_path / 'my.nk'}")
    (tmp_path / "other.nk").write_text(nkey(20 << 3, bytes(32)))
    assert refused(server, server.url() + f"?nkey={tmp_path / 'other.nk'}") == "Authorization Violation"


def test_credentials_have_a_jwt_and_a_seed(tmp_path: Path) -> None:
    seed = nkey(20 << 3, bytes(range(32)))
    (tmp_path / "my.creds").write_text(
        f"-----BEGIN NATS USER JWT-----\neyJ0.x.y\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    identity = read_broker(f"nats://h?creds={tmp_path / 'my.creds'}").identity()
    assert identity is not None
    assert identity.jwt == "eyJ0.x.y"
    signature = base64.b64decode(identity.sign("nonce"))
    Ed25519PrivateKey.from_private_bytes(bytes(range(32))).public_key().verify(signature, b"nonce")


def test_a_user_that_may_not_use_the_subject(server: NatsServer) -> None:
    users = [
        {"user": "deaf", "password": "x", "permissions": {"subscribe": ["other"], "publish": ["busway.*"]}},
        {"user": "dumb", "password": "x", "permissions": {"subscribe": ["busway.*"], "publish": ["other"]}},
        {
            "user": "both",
            "password": "x",
            "permissions": {"subscribe": ["busway.*"], "publish": ["busway.*"]},
        },
    ]
    server.set(authorization={"users": users})
    server.start()
    for user, what in (("deaf", "subscription"), ("dumb", "publish")):
        said = refused(server, server.url(user=f"{user}:x"))
        assert said.lower() == f'permissions violation for {what} to "busway.e1"'
    accepted(server.url(user="both:x"))


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CA, a certificate of 127.0.0.1 and one of a client, made by openssl."""
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    new = (
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    )
    usage = ("-addext", "keyUsage=critical,keyCertSign")  # Python 3.13 and newer ask for it
    openssl(*new, *usage, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    for name, more in (("server", ("-addext", "subjectAltName=IP:127.0.0.1")), ("client", ())):
        signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE")
        openssl(*new, *signed, *more, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
    return folder


@pytest.mark.long
def test_tls(server: NatsServer, certificates: Path) -> None:
    at = certificates
    tls = {"cert_file": str(at / "server.pem"), "key_file": str(at / "server.key")}
    server.set(tls=tls, authorization={"user": "me", "password": "secret"})
    server.start()
    for scheme in ("tls", "nats"):
        accepted(server.url(scheme, "me:secret") + f"?tls_ca={at / 'ca.pem'}")
    said = refused(server, server.url("tls", "me:secret"))
    assert said.startswith("its certificate is not accepted: "), said
    server.kill()
    server.set(tls=tls | {"ca_file": str(at / "ca.pem"), "verify": True})
    server.start()
    ours = f"?tls_ca={at / 'ca.pem'}&tls_cert={at / 'client.pem'}&tls_key={at / 'client.key'}"
    accepted(server.url("tls") + ours)
    assert refused(server, server.url("tls") + f"?tls_ca={at / 'ca.pem'}")
    server.kill()
    server.set(tls=tls, allow_non_tls=True)
    server.start()
    accepted(server.url("tls") + f"?tls_ca={at / 'ca.pem'}")


def test_nothing_secret_goes_to_a_server_without_the_tls_that_the_url_demands() -> None:
    async def main() -> bytes:
        heard = bytearray()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(
                b'INFO {"server_id":"x","version":"2.0.0","max_payload":1048576,"auth_required":true}\r\n'
            )
            heard.extend(await reader.read())
            writer.close()

        plain = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = plain.sockets[0].getsockname()[1]
        async with node(f"tls://me:secret@127.0.0.1:{port}", connected=False) as one:
            await until(lambda: state(one).problem == "the server has no TLS, and tls:// demands it")
        plain.close()
        return bytes(heard)

    assert run(main()) == b""


def test_a_node_is_connected_when_the_server_has_its_subscription() -> None:
    async def main() -> None:
        lines: list[bytes] = []
        held = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b'INFO {"server_id":"x","version":"2.0.0","max_payload":1048576}\r\n')
            with contextlib.closing(writer):
                while line := await reader.readline():
                    lines.append(line.split(b" ")[0].strip())
                    if lines[-1] == b"PING":
                        if b"SUB" in lines:
                            await held.wait()
                        writer.write(b"PONG\r\n")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, node(f"nats://127.0.0.1:{port}", connected=False) as one:
            await until(lambda: b"SUB" in lines and lines[-1] == b"PING")
            await asyncio.sleep(0.05)
            assert not state(one).connected
            held.set()
            await until(lambda: state(one).connected)
            assert lines.index(b"SUB") < lines.index(b"PUB") < len(lines) - 1 - lines[::-1].index(b"PING")

    run(main())


def test_a_server_that_is_not_there_is_found_later_and_again(server: NatsServer) -> None:
    async def main() -> None:
        async with node(server.url(), connected=False) as one, node(server.url(), connected=False) as two:
            await until(lambda: state(one).problem == "Connection refused")
            for _ in range(3):
                await asyncio.to_thread(server.start)
                await until(lambda: state(one).connected and state(two).connected)
                before = state(two).received
                one.notifications.notify(b"1")
                await until(lambda before=before: state(two).received > before)
                server.kill()
                await until(lambda: not state(one).connected and not state(two).connected)
                one.notifications.notify(b"2")

    run(main())


def test_another_server_is_used_when_one_fails(server: NatsServer, nats: NatsServer) -> None:
    server.start()
    both = f"{server.url()},{nats.url()}"

    async def main() -> None:
        async with node(both) as one, node(nats.url()) as other:
            server.kill()
            await until(lambda: state(one).connected)
            before = state(other).received
            while state(other).received == before:
                one.notifications.notify(b"1")
                await asyncio.sleep(0.05)

    run(asyncio.wait_for(main(), 60))


@pytest.mark.long
@pytest.mark.parametrize("how", ["frozen", "swallowed"])
def test_a_server_that_is_silent_is_noticed(server: NatsServer, how: str) -> None:
    server.start()

    async def main() -> None:
        async with contextlib.AsyncExitStack() as stack:
            relay = stack.enter_context(UnreliableNats(server.port, 0.0, 1))
            one = await stack.enter_async_context(node(f"nats://127.0.0.1:{relay.port}"))
            other = await stack.enter_async_context(node(server.url()))
            if how == "frozen":
                server.freeze()
            else:
                relay.swallow()
            for _ in range(100):
                one.notifications.notify(b"1" * 1000)
                await asyncio.sleep(0)
            await until(lambda: not state(one).connected)
            assert state(one).problem == "no answer for 5 s"
            if how == "frozen":
                server.thaw()
            else:
                relay.carry()
            await until(lambda: state(one).connected and state(other).connected)
            before = state(other).received
            one.notifications.notify(b"2")
            await until(lambda: state(other).received > before)

    run(main())


def test_what_is_notified_last_is_sent_before_the_connection_closes(nats: NatsServer) -> None:
    async def main() -> None:
        async with node(nats.url()) as other:
            one = await joined(nats.url())
            await until(lambda: state(one).connected)
            await until(lambda: state(other).received)
            before = state(other).received
            one.notifications.notify(b"1")
            await one.close()
            await until(lambda: state(other).received > before)

    run(main())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nats://", "must be like"), ("http://h", "must be like"), ("h:4222", "must be like"),
        ("nats://h:x", "must be like"), ("nats://h:70000", "must be like"), ("nats://h,", "must be like"),
        ("ws://h", "must be like"), ("nats://h/path", "must be like"), ("nats://h?nkey", "must be like"),
        ("nats://h?tls_ca=/nowhere", "tls_ca: the file '/nowhere' cannot be used: No such file"),
        ("nats://h?nkey=/dev/null", "nkey: the file '/dev/null' has no nkey"),
        ("nats://h?creds=/dev/null", "creds: the file '/dev/null' has no credentials"),
        ("nats://h?tls_ca=/dev/null", "tls_ca: the file '/dev/null' cannot be used: it is not in PEM form"),
        ("nats://h?tls_key=x", "tls_key without tls_cert"), ("nats://h?user=x", "unknown parameter 'user'"),
        ("nats://me:x@h?nkey=/dev/null", "several of user, nkey and creds"),
    ],
)  # fmt: skip
def test_a_broker_that_is_not_named_correctly(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        read_broker(url if "nkey" in url or "creds" in url else url.replace("//h", "//me:hidden@h"))
    assert said in str(raised.value)
    assert "hidden" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_nkey_that_is_not_a_users(tmp_path: Path) -> None:
    (tmp_path / "a.nk").write_text(nkey(0, bytes(32)))  # of an account
    with pytest.raises(ValueError, match="not the seed of a user"):
        read_broker(f"nats://h?nkey={tmp_path / 'a.nk'}")


def test_a_broker_is_shown_without_secrets() -> None:
    broker = read_broker("nats://me:secret@one,tls://two:1,nats://tok@[::1]")
    assert broker.url == "nats://one:4222,tls://two:1,nats://[::1]:4222"
    assert [(s.user, s.password) for s in broker.servers] == [
        ("me", "secret"),
        ("me", "secret"),
        ("tok", None),
    ]
