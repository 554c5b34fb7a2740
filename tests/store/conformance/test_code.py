"""The source of handler code."""

import asyncio
import hashlib

import pytest
from busway.domain.handler import Handler
from busway.gateway.executors.port import HandlerFile, Target
from busway.gateway.handler_files import HandlerFiles
from busway.gateway.store.core.code import UNUSED
from busway.gateway.store.port.code import KEPT_REVISIONS, KEPT_SEEN, SEEN_EVERY, CodeFile, SaveCode
from busway.gateway.store.port.operations import SaveHandler

from tests.store.kit import NOW


def file(name, text="# é'\n"):
    return CodeFile(name, 99, text)


def save(*files, current=(), now=NOW):
    return SaveCode(files=[*files], current=[*current], now=now)


def revise(first, last, digest):
    handler = Handler(id=1, name="one")
    for revision in range(first, last + 1):
        new = Handler(id=handler.id, name="one", revision=revision, file_digest=digest, updated_at=NOW)
        yield SaveHandler(handler=new, fields={"target": "a:b"})


def test_a_file_is_stored_once_and_read_by_its_digest(store):
    long = CodeFile("long", 1 << 30, None)
    store.write(save(file("a"), long, current=["a", "long"]))
    store.write(save(file("a", "another text with the same digest")))
    assert store.read("code", "a") == file("a")
    assert store.read("code", "long") == long
    assert store.read("code", "none") is None
    assert store.read("code_digests") == {"a": NOW, "long": NOW}


def test_files_that_no_revision_needs_are_removed(store):
    names = ["old", "new", "free", "here"]
    store.write(save(*map(file, names), current=names))
    store.write(*revise(2, 2, "old"), *revise(3, 3, "here"))
    store.write(*revise(4, 2 + KEPT_REVISIONS, "new"))
    store.write(save(now=NOW + KEPT_SEEN))
    assert store.read("code_digests").keys() == {*names}, "a node may have it now, and declare it next"
    later = NOW + KEPT_SEEN + 1
    store.write(save(now=later))
    assert store.read("code_digests").keys() == {"new", "free", "here"}, "what none has stays"
    store.write(*revise(3 + KEPT_REVISIONS, 4 + KEPT_REVISIONS, "new"))
    store.write(save(current=["here"], now=later))
    assert store.read("code_digests") == {"new": NOW, "free": NOW, "here": later}, "a node has it"
    store.write(save(current=["here"], now=NOW + UNUSED + 1))
    assert store.read("code_digests").keys() == {"new", "here"}


class Stored:
    """The store, as those in the gateway see it."""

    def __init__(self, store):
        self._store, self.code_digests = store, store.reader.code_digests

    async def change(self, operation):
        return self._store.write(operation)[0]


def test_a_file_that_comes_back_is_stored_when_a_revision_names_it(store, tmp_path):
    """Another node may remove it before: only old revisions had it."""
    source, time = tmp_path / "one.py", NOW
    source.write_text("def f(event): ...")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    store.write(save(file(digest), current=[digest]))
    store.write(*revise(2, 2, digest), *revise(3, 2 + KEPT_REVISIONS, "new"))
    stored = Stored(store)
    files = HandlerFiles([tmp_path], stored, stored, lambda: time)
    handlers = [Handler(id=1, name="one", file_digest=digest)]
    files.take([HandlerFile("one.py", digest, [Target("one:f", "function", "")])])
    store.run(files.due())
    store.run(files.store())
    assert store.read("code_digests")[digest] == NOW
    time += SEEN_EVERY
    store.run(files.store())
    assert store.read("code_digests")[digest] == time, "it is seen before it may be removed"
    store.write(save(now=time + KEPT_SEEN + 1))
    assert store.read("code", digest) is None
    files.declared(handlers)
    store.run(asyncio.wait_for(files.due(), 60))
    store.run(files.store())
    assert store.read("code", digest).text == source.read_text()
    files.declared(handlers)  # and nothing is new
    with pytest.raises(TimeoutError):
        store.run(asyncio.wait_for(files.due(), 0))
