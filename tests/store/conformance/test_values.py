"""Values that databases treat differently are stored and returned as they are, and compared byte by byte."""

import random

import pytest
from busway.domain.event import to_event
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, RunState
from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import (
    Cancel,
    CreateKey,
    OpenDurable,
    Retry,
    SaveHandler,
    StoredEvent,
)
from busway.gateway.store.port.reader import EventQuery, RunQuery

from tests.store.kit import NOW, append, event, handler, mark, publish, report, settle

LARGE = (1 << 62) - 1
TEXTS = {
    "empty": "",
    "a NUL": "a\0b",
    "NUL alone": "\0",
    "all controls": "".join(map(chr, range(32))) + "\x7f\x80\x9f",
    "quotes": "'\"\\$$ :name %s {} -- ; /*",
    "line ends": "a\r\nb\u2028c\u2029",
    "not ASCII": "\xe5\xc5 \xdf \u017f \u0130 \u0131 \u6f22\u5b57",
    "outside of the BMP": "\U0001f600\U0010ffff",
    "almost surrogates": "\ud7ff\ue000\ufffe\uffff",
    "not normalized": "e\u0301 \u00e9 \ufb01",
    "long": "é\0" * 40_000,
}
PLAIN = ("quotes", "not ASCII", "outside of the BMP", "almost surrogates", "not normalized")
NAMES = [
    "a",
    "A",
    "á",
    "Á",
    "a\u0301",
    "ä",
    "b",
    "B",
    "_",
    "-",
    "a_",
    "a-",
    "a b",
    "ab",
    "ß",
    "ss",
    "\U0001f600",
]
PAYLOADS = {
    "every byte": bytes(range(256)),
    "empty": b"",
    "NUL": b"\0",
    "text that is no UTF-8": b"\xff\xfe\xc3",
    "like hexadecimal of a database": b"\\x00ff",
    "quotes": b"'\"\\",
    "long": bytes(random.Random(1).randbytes(1_200_000)),
}
DOCUMENTS = [
    b"null",
    b"0",
    b'""',
    b"[]",
    b' {"b" : 1, "a":1.0, "a": 1e2}\n',
    b'"\\u0000 \\ud83d\\ude00 \\u00e9 \xc3\xa9 \xe2\x80\xa8"',
    b"123456789012345678901234567890",
    b"1.7976931348623157e308",
    b"-0.0",
    b'"%s"' % (b"x" * 1_000_000),
]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_output_and_errors_of_attempts_are_any_text(store, text):
    error = Error(text, text, text)
    failed = settle(1, state=RunState.DEAD, report=report(Outcome.FAILED, log=text, error=error))
    failed.result.error = (text, text)
    store.write(publish(event(), event()), failed, settle(2, report=report(log=text)))
    run, (attempt,) = store.read("run", 1)
    assert (run.error, attempt.error) == (Error(text, text), error)
    assert [a.log or "" for id_ in (1, 2) for a in store.read("run", id_)[1]] == [text, text]
    assert store.read("runs", RunQuery(state=RunState.DEAD), 10) == [run]
    assert store.read("runs_of", [1]) == [run]
    assert store.results()[0].error == (text, text)
    assert store.read("last_errors") == {1: Error(text, text)}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_reason_of_a_cancellation_is_any_text(store, text):
    store.write(publish(event(), event()), mark(2))
    store.write(Cancel(runs=[1, 2], error=Error(text, text, text), now=NOW))
    assert [store.read("run", id_)[0].error for id_ in (1, 2)] == [Error(text, text)] * 2
    assert store.read("run", 2)[1][0].error == Error(text, text, text)
    assert [result.error for result in store.results()] == [(text, text)] * 2


@pytest.mark.parametrize("text", [TEXTS[name] for name in PLAIN], ids=PLAIN)
def test_attributes_of_events_are_any_text_without_control_characters(store, text):
    new = event(
        text, source=text, type_=text, subject=text, datacontenttype=text, correlationid=text + "c",
        attributes={"partitionkey": text, "x": text},
    )  # fmt: skip
    assert store.write_one(publish(new)) == [StoredEvent(1, 1)]
    assert store.write_one(publish(new)) == [StoredEvent(1, 0, True)]
    stored = to_event(new, 1)
    assert store.read("event", 1) == stored
    for query in ({"id": text}, {"source": text}, {"subject": text}, {"correlationid": text + "c"}):
        assert store.read("events", EventQuery(**query), 10) == [stored]
    (run,) = store.read("waiting", 1, 10)
    assert (run.event, run.key) == (stored, text)
    store.write(append(1, 0))
    assert store.read("results_with_events", 0, 10, 1 << 20)[0][1] == stored


def test_ids_and_sources_are_compared_byte_by_byte(store):
    new = [event(name, source=source, subject=name) for name in NAMES for source in ("/é", "/e\u0301", "/E")]
    stored = store.write_one(publish(*new))
    assert stored == [StoredEvent(n, n) for n in range(1, len(new) + 1)]
    assert store.write_one(publish(*new)) == [StoredEvent(n, 0, True) for n in range(1, len(new) + 1)]
    for number, name in enumerate(NAMES):
        seqs = [3 * number + 3, 3 * number + 2, 3 * number + 1]
        assert [e.seq for e in store.read("events", EventQuery(id=name), 100)] == seqs
        assert [e.seq for e in store.read("events", EventQuery(subject=name), 100)] == seqs
    found = store.read("events", EventQuery(source="/E"), 100)
    assert [e.seq for e in found] == list(range(len(new), 0, -3))


def test_types_are_compared_byte_by_byte(store):
    names = [name for name in NAMES if " " not in name]
    store.write_one(publish(*[event(type_=f"{name}.{end}") for name in names for end in ("x", "X")]))
    for number, name in enumerate(names):
        for pattern, seqs in (
            (f"{name}.x", [2 * number + 1]),
            (f"{name}.*", [2 * number + 2, 2 * number + 1]),
            (f"{name}.**", [2 * number + 2, 2 * number + 1]),
        ):
            assert [e.seq for e in store.read("events", EventQuery(type=pattern), 100)] == seqs, pattern
    assert len(store.read("events", EventQuery(type="*.x"), 100)) == len(names)


def test_partition_keys_are_distinct_and_ordered_byte_by_byte(store):
    """UTF-8 sorts as its code points do."""
    keys = [*NAMES, "", "a\x1f", "Z", "~", "\ue000", "\U00010000"]
    random.Random(3).shuffle(keys)
    store.write(publish(*[event(attributes={"partitionkey": key}) for key in keys for _ in range(2)]))
    ordered = sorted(set(keys) - {""})  # a page begins after a key
    assert store.read("partition_keys", 1, "", 100) == ordered
    pages, after = [], ""
    while page := store.read("partition_keys", 1, after, 3):
        pages += page
        after = page[-1]
    assert pages == ordered
    asked = [*reversed(keys), "none"]
    found = store.read("key_runs", 1, asked, NOW, 10, 1 << 30)
    assert [(each.key, [run.key for run in each.runs]) for each in found[:-1]] == [
        (key, [key, key]) for key in reversed(keys)
    ]
    assert found[-1].runs == []


def test_names_of_durables_are_distinct_and_ordered_byte_by_byte(store):
    opened = [OpenDurable(name=name, number=0, digest=0, now=NOW, most=99) for name in NAMES]
    store.write(*opened)
    assert [d.name for d in store.read("durables", "", 100)] == sorted(NAMES)
    assert [d.name for d in store.read("durables", "a", 3)] == [n for n in sorted(NAMES) if n > "a"][:3]
    for name in NAMES:
        assert store.read("durable", name).name == name


@pytest.mark.parametrize("data", PAYLOADS.values(), ids=PAYLOADS)
def test_payloads_are_any_bytes(store, data):
    new = event("a", data=data, binary=True)
    partial = append(1, 0)
    partial.result.data, partial.result.binary = data, True
    store.write(publish(new), partial)
    stored = to_event(new, 1)
    assert store.read("event", 1) == stored
    assert store.read("waiting", 1, 1)[0].event == stored
    assert store.read("events", EventQuery(), 1) == [stored]
    result = store.results()[0]
    assert (result.data, result.binary) == (data, True)
    store.write(settle(1, published=[event("b", data=data, binary=True, root=1, parent=1)], root=1))
    assert store.read("children", [1])[0][1].data == data


@pytest.mark.parametrize("data", DOCUMENTS, ids=lambda data: ascii(data[:20]))
def test_documents_keep_their_bytes(store, data):
    """A database must not store them as its own type of JSON, which changes white space, keys and numbers."""
    new = event("a", data=data)
    partial = append(1, 0)
    partial.result.data = data
    store.write(publish(new), partial)
    assert store.read("event", 1) == to_event(new, 1)
    assert store.read("results_with_events", 0, 10, 1 << 30)[0][1].data == data
    result = store.results()[0]
    assert (result.data, result.binary) == (data, False)


def test_no_payload_is_not_an_empty_one(store):
    store.write(publish(event(data=None), event(data=b"", binary=True), event(data=b'""')))
    found = [store.read("event", seq) for seq in (1, 2, 3)]
    assert [(e.data, e.binary) for e in found] == [(None, False), (b"", True), (b'""', False)]


def test_attributes_keep_their_types_and_order(store):
    attributes = {
        "z": 1,
        "a": True,
        "m": False,
        "n": "1",
        "o": "true",
        "p": -(1 << 31),
        "q": (1 << 31) - 1,
        "b": "",
    }
    store.write(publish(event("a", attributes=attributes)))
    (stored,) = store.read("events", EventQuery(), 1)
    assert list(stored.attributes.items()) == list(attributes.items())
    assert [type(value) for value in stored.attributes.values()] == [type(v) for v in attributes.values()]


@pytest.mark.parametrize("number", [0, 1, (1 << 31), (1 << 32) + 1, (1 << 53) + 1, LARGE])
def test_times_tokens_and_sizes_are_exact(store, number):
    new = event("a", time=number, accepted_at=number, due=number, expires_at=number)
    new.priority = 9
    store.write(publish(new))
    run = store.read("due", number, 10, after=number - 1)[0]
    assert (run.due, run.since, run.expires_at, run.event.time) == (number,) * 4
    assert store.read("next_expiry") == number
    marking = mark(1, token=number + 1)
    marking.started_at = number
    assert store.write_one(marking)
    assert not store.write_one(settle(1, token=number + 2)).accepted
    ended = settle(1, token=number + 1, state=RunState.DEAD)
    ended.report = report(
        Outcome.FAILED, started_at=number, finished_at=number, worker=(1 << 31) - 1, peak_memory=number
    )
    ended.result.time = number
    assert store.write_one(ended).accepted
    record, (attempt,) = store.read("run", 1)
    assert (record.created_at, record.available_at, record.finished_at) == (number,) * 3
    assert (attempt.started_at, attempt.finished_at, attempt.peak_memory) == (number,) * 3
    assert attempt.worker == (1 << 31) - 1
    assert store.results()[0].time == number


@pytest.mark.parametrize("fence", [(1 << 53) + 1, LARGE])
def test_fences_are_exact(store, fence):
    store.write(publish(event()), Cancel(runs=[1], now=NOW), Retry(runs=[1], now=fence))
    (run,) = store.read("waiting", 1, 1)
    assert run.fence == -fence
    assert not store.write_one(settle(1, fence=-fence + 1)).accepted
    assert store.write_one(settle(1, fence=-fence)).accepted


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 0.1, 1 / 3, 123456.789012, 86_400.000001])
def test_seconds_have_15_digits(store, seconds):
    """Of an attempt that is in its run's row, and of others."""
    first = settle(1, report=report(cpu_time=seconds, wall_time=seconds))
    failed = settle(
        2, state=RunState.DEAD, report=report(Outcome.FAILED, cpu_time=seconds, wall_time=seconds)
    )
    store.write(publish(event(), event()), first, failed)
    for id_ in (1, 2):
        (attempt,) = store.read("run", id_)[1]
        assert (attempt.cpu_time, attempt.wall_time) == (pytest.approx(seconds, rel=1e-14, abs=0),) * 2


@pytest.mark.parametrize("seconds", [float("inf"), float("-inf"), float("nan")])
def test_seconds_that_are_no_number_are_not_shown(store, seconds):
    failed = settle(
        1, state=RunState.DEAD, report=report(Outcome.FAILED, cpu_time=seconds, wall_time=seconds)
    )
    store.write(publish(event()), failed)
    (attempt,) = store.read("run", 1)[1]
    assert (attempt.cpu_time, attempt.wall_time) == (None, None)


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1, -(1 << 63) + 1])
def test_numbers_that_do_not_fit_are_refused_and_others_kept(store, number):
    replies = store.write(publish(event("a", due=number)), publish(event("b")))
    assert isinstance(replies[0], Conflict) == (number > 0)
    assert isinstance(replies[1], list)
    assert [e.id for e in store.read("events", EventQuery(), 9)] == (["b"] if number > 0 else ["b", "a"])


def test_texts_that_are_too_long_for_an_index_are_refused_and_others_kept(store):
    """An index of PostgreSQL takes 2,704 bytes. Each of these characters has four."""
    chance = random.Random(1)
    source = "".join(chr(chance.randrange(0x10000, 0x30000)) for _ in range(1024))
    store.write(publish(event("a")))
    child = event("child", source=source, root=1, parent=1)
    replies = store.write(
        publish(event("b")), publish(event("c", source=source)), settle(1, published=[child], root=1)
    )
    assert [isinstance(reply, Conflict) for reply in replies] in ([False] * 3, [False, True, True])
    if isinstance(replies[1], Conflict):
        assert "too long" in replies[1].detail
    stored = {e.id for e in store.read("events", EventQuery(), 9)}
    assert stored == {"a", "b"} | ({"c", "child"} if replies[1] == [StoredEvent(3, 3)] else set())


def test_fields_of_handlers_are_any_json(store):
    values = {"ü\0": [None, True, 1.5, "\0'\\", {"": (1 << 53) + 1}], "text": TEXTS["long"], "a": 1, "A": 2}
    made = Handler(
        id=0, name="third", declared=values, overrides=dict(reversed(values.items())), file_digest="é'"
    )
    number = store.write_one(SaveHandler(handler=made, fields=values))
    kept = store.read("handlers")[-1]
    assert (kept.declared, kept.overrides, kept.file_digest) == (values, values, "é'")
    (revision,) = store.read("revisions", number)
    assert (revision.fields, revision.file_digest) == (values, "é'")


def test_keys_have_any_name_and_scopes(store):
    made = CreateKey(name="é'", digest=bytes(range(256)), scopes=["", "ä:\0", "admin"], now=NOW)
    store.write_one(made)
    (kept,) = store.read("keys")
    assert (kept.name, kept.digest, kept.scopes) == (made.name, made.digest, made.scopes)


def test_a_published_result_is_null_or_empty_as_it_was(store):
    store.write(publish(event(), event(), event()))
    for run, data in ((1, None), (2, b"null"), (3, b'""')):
        ended = settle(run, event=run)
        ended.result.data = data
        store.write_one(ended)
    assert [(r.kind, r.data) for r in store.results()] == [
        (Kind.SUCCEEDED, data) for data in (None, b"null", b'""')
    ]
    assert store.read("handlers")[0] == handler("one", 1).handler
