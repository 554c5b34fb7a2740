"""Frames: any cut of the bytes gives the same ones, and none is awaited that is longer than it may be."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from busway.gateway.channel import HEADER, Buffer, Channel, Frame, pack
from busway.gateway.errors import Unavailable
from busway.gateway.store.group import frames
from busway.gateway.store.group.process import Committer, Launched, open_committer
from busway.gateway.store.port.operations import Publish

from tests.store.kit import event

PATIENCE = 60.0
HUGE = HEADER.pack(0xFFFFFFF0, frames.DONE, 1)


def test_frames_do_not_depend_on_how_their_bytes_are_cut() -> None:
    chance = random.Random(7)
    sent = [(chance.randrange(4), n, bytes(chance.randrange(300))) for n in range(200)]
    stream = b"".join(pack(*frame) for frame in sent)
    for _ in range(50):
        buffer, found, at = Buffer(lambda _kind: 300), [], 0
        while at < len(stream):
            size = chance.choice((1, 5, 13, 14, 100, 1000))
            found += buffer.feed(stream[at : at + size])
            at += size
        assert (found, buffer.problem) == (sent, None)


@pytest.mark.parametrize("size", [1, 13, 20, 1000])
def test_a_frame_that_is_too_long_is_refused_when_its_header_is_there(size: int) -> None:
    buffer = Buffer(lambda kind: 10 if kind == 2 else 0)
    stream = pack(2, 5, b"good") + HEADER.pack(11, 2, 6) + b"x" * 100_000
    found: list[Frame] = []
    for at in range(0, len(stream), size):
        found += buffer.feed(stream[at : at + size])
        if buffer.problem:
            break
    assert found in ([(2, 5, b"good")], [(2, 5, b"good"), (2, 6, b"x" * 11)])
    if size < 13:
        assert at < 40
        assert buffer.problem == "a frame of kind 2 has 11 bytes, allowed are 10"


def test_a_channel_gives_the_frames_before_the_bad_one_and_says_why_it_ends() -> None:
    async def scenario() -> None:
        ours, theirs = socket.socketpair()
        taken: list[Frame] = []
        ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        channel = Channel(ours, taken.extend, ended.set_result, lambda _kind: 10)
        theirs.sendall(pack(1, 1, b"fine") + HUGE + b"more")
        async with asyncio.timeout(PATIENCE):
            assert "allowed are 10" in str(await ended)
        assert taken == [(1, 1, b"fine")]
        channel.close()
        theirs.close()

    asyncio.run(scenario())


@contextlib.contextmanager
def impostor() -> Iterator[tuple[Launched, socket.socket]]:
    """A process in place of a committer, and its end of the socket."""
    ours, theirs = socket.socketpair()
    with subprocess.Popen(["sleep", "600"]) as process, theirs:
        try:
            yield Launched(process, ours), theirs
        finally:
            process.kill()


@pytest.mark.parametrize("says", [HUGE, pack(frames.HELLO, 0, b"\xc1"), pack(frames.HELLO, 0, b"\x90")])
def test_a_committer_that_speaks_nonsense_is_ended_at_once(tmp_path: Path, says: bytes) -> None:
    async def scenario() -> None:
        with impostor() as (launched, theirs):
            theirs.sendall(says)
            async with asyncio.timeout(PATIENCE / 2):  # it would wait for a minute
                with pytest.raises(Unavailable):
                    await open_committer(tmp_path / "busway.db", lambda _frame: None, launched)
            assert launched.process.returncode == -9

    asyncio.run(scenario())


@pytest.mark.parametrize("end", ["failed", "kill"])
def test_a_committer_at_its_end_is_waited_for_although_the_store_closes_meanwhile(end: str) -> None:
    async def scenario() -> None:
        with impostor() as (launched, _):
            ending = asyncio.create_task(getattr(Committer(launched, lambda _frame: None), end)())
            await asyncio.sleep(0)
            ending.cancel()
            await asyncio.wait([ending])
            assert launched.process.returncode == -9

    asyncio.run(scenario())


def test_a_committer_whose_start_is_cancelled_is_ended_also_when_it_could_just_write() -> None:
    hello = pack(frames.HELLO, 0, frames.encode(frames.Hello("epoch", 0, [])))

    async def scenario(turns: int) -> bool:
        with impostor() as (launched, theirs):
            starting = asyncio.create_task(open_committer("", lambda _frame: None, launched))
            await asyncio.sleep(0)
            theirs.sendall(hello)
            for _ in range(turns):
                await asyncio.sleep(0)
            starting.cancel()
            await asyncio.wait([starting])
            assert starting.cancelled() is (launched.process.returncode == -9)
            return starting.cancelled()

    assert {asyncio.run(scenario(turns)) for turns in range(8)} == {True, False}


def test_parts_make_the_same_operation_and_the_same_batch() -> None:
    events = [event(str(n), data=b"1") for n in range(300)]
    for sizes in ([300], [15, 16, 269], [1] * 300):
        slices, start = [], 0
        for size in sizes:
            slices.append((size, frames.encode(events[start : start + size])))
            start += size
        body = frames.encode_publish(Publish(events=[]), slices)
        batch = frames.RawBatch(7, [msgspec.Raw(body)] * 20)
        whole = frames.decode_batch(b"".join(frames.batch_parts(batch)))
        assert whole == frames.decode_batch(frames.encode(batch))
        assert whole.operations[0] == Publish(events=events)
