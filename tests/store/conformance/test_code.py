"""The source of handler code."""

from busway.domain.handler import Handler
from busway.gateway.store.core.code import UNUSED
from busway.gateway.store.port.code import KEPT_REVISIONS, CodeFile, SaveCode
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
    later = NOW + 1
    store.write(save(now=later))
    assert store.read("code_digests").keys() == {"new", "free", "here"}, "what none has stays"
    store.write(*revise(3 + KEPT_REVISIONS, 4 + KEPT_REVISIONS, "new"))
    store.write(save(current=["here"], now=later))
    assert store.read("code_digests") == {"new": NOW, "free": NOW, "here": later}, "a node has it"
    store.write(save(current=["here"], now=NOW + UNUSED + 1))
    assert store.read("code_digests").keys() == {"new", "here"}
