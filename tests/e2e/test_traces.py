"""Traces: what a collector gets of an event, in both pools, and what it costs when there is none."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from busway.gateway.traces.exporting import Losses
from opentelemetry.semconv._incubating.attributes import cloudevents_attributes, messaging_attributes
from opentelemetry.semconv.attributes import error_attributes

from tests.ports import unused_port
from tests.servers.collector import Collector, Span, collecting

from .conftest import Serve
from .service import PATIENCE, Service, items, until

HANDLERS = """
import sys, time
from busway import Context, Event, Fail, handler
from opentelemetry import trace

tracer = trace.get_tracer("shop")

@handler("tree.*", pool="process")
def first(event: Event, ctx: Context):
    with tracer.start_as_current_span("look up") as span:
        span.set_attribute("shop.item", "book")
    print("looked up")
    ctx.publish(f"{event.type.replace('tree', 'branch')}", {"n": 1})
    return "PAYLOAD out"

@handler("branch.*", pool="thread", max_attempts=2, backoff={"initial": 0.01})
def second(event: Event, ctx: Context):
    with tracer.start_as_current_span("charge"):
        if ctx.attempt == 1:
            raise ValueError(f"no total for {ctx.secrets['TOKEN']}")
    ctx.publish("leaf", traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")

@handler("leaf", "leaf.*", pool="thread")
async def third(event: Event):
    with tracer.start_as_current_span("send"):
        yield 1
        yield 2

@handler("long.*", pool="process")
def long(event: Event, ctx: Context):
    while not ctx.cancelled:
        time.sleep(0.01)
"""
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as made:
        yield made


@pytest.fixture(scope="module")
def service(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("traces"), log_format="json", allow_target="127.0.0.0/8")
    service.write("shop.py", HANDLERS)
    service.variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=SECRETKEY",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "BUSWAY_SECRET_TOKEN": "SECRETVALUE",
    }
    yield service.start()
    service.close()


def arrived(collector: Collector, trace: str, *names: str) -> dict[str, list[Span]]:
    """Wait until a trace has spans with these names, as often as they are named. Return all of it."""

    def there() -> dict[str, list[Span]] | None:
        found: dict[str, list[Span]] = {}
        for span in collector.of(trace):
            found.setdefault(span.name, []).append(span)
        return found if all(len(found.get(name, [])) >= names.count(name) for name in names) else None

    try:
        spans: dict[str, list[Span]] = until(there, f"{names} in {trace}")
    except AssertionError:
        raise AssertionError([(span.name, span.parent) for span in collector.of(trace)]) from None
    return spans


def trace_of(service: Service, seq: int) -> str:
    return str(service.ok("GET", f"/v1/events/{seq}")["traceparent"]).split("-")[1]


def test_one_trace_shows_what_an_event_caused(service: Service, collector: Collector) -> None:
    with service.subscribed(types=["tree.*", "branch.*"]) as socket:
        answer = service.request(
            "POST",
            "/v1/events",
            json={"type": "tree.a", "data": "PAYLOAD in", "subject": "order 7"},
            headers={"traceparent": TRACEPARENT},
        )
        seq = answer.json()["seq"]
        items(socket, 3)
        spans = arrived(
            collector, TRACE, "publish tree.a", "queue first", "process tree.a", "settle tree.a", "look up",
            "publish branch.a", *["queue second"] * 2, *["process branch.a"] * 2, *["settle branch.a"] * 2,
            *["charge"] * 2, "deliver tree.a", *["deliver branch.a"] * 2,
        )  # fmt: skip
    everything = [span for each in spans.values() for span in each]
    known = {span.id: span for span in everything}
    assert len(known) == len(everything) == 17
    assert {span.parent for span in everything} - known.keys() == {PARENT}

    def above(name: str) -> list[str]:
        return [known[span.parent].name for span in spans[name]]

    (published,), (processed,) = spans["publish tree.a"], spans["process tree.a"]
    assert published.parent == PARENT
    assert above("process tree.a") == above("queue first") == ["publish tree.a"]
    assert above("look up") == above("publish branch.a") == above("settle tree.a") == ["process tree.a"]
    assert above("deliver tree.a") == ["process tree.a"]
    assert above("process branch.a") == ["publish branch.a"] * 2
    assert above("charge") == ["process branch.a"] * 2
    run = service.ok("GET", f"/v1/events/{seq}")["runs"][0]["id"]
    detail = service.ok("GET", f"/v1/runs/{run}")["attempts"][0]
    assert (published.kind, processed.kind) == (4, 5)  # producer, consumer
    assert (
        published.attributes.items()
        >= {
            "messaging.system": "busway",
            "messaging.operation.type": "send",
            "messaging.destination.name": "tree.a",
            "cloudevents.event_subject": "order 7",
            "busway.event.seq": seq,
            "messaging.message.body.size": len('"PAYLOAD in"'),
        }.items()
    )
    assert (
        processed.attributes.items()
        >= {
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": "first",
            "busway.run": run,
            "busway.attempt": 1,
            "busway.handler.revision": detail["revision"],
            "busway.outcome": "succeeded",
            "busway.pool": "process",
            "busway.worker": detail["worker"],
        }.items()
    )
    assert processed.resource["service.name"] == "busway"
    assert processed.resource["busway.node"] == processed.resource["service.instance.id"]
    assert published.start <= processed.start <= processed.end <= spans["settle tree.a"][0].end
    failed, succeeded = sorted(spans["process branch.a"], key=lambda span: span.attributes["busway.attempt"])
    assert (failed.status, succeeded.status) == (2, 0)
    ((name, error),) = failed.events
    assert (name, error["exception.type"], failed.attributes["error.type"]) == (
        "exception", "ValueError", "ValueError",
    )  # fmt: skip
    assert "raise ValueError" in error["exception.stacktrace"]
    assert spans["look up"][0].attributes == {"shop.item": "book"}
    # Its handler named another trace, which is linked.
    other = arrived(collector, "0af7651916cd43dd8448eb211c80319c", "publish leaf", "process leaf", "send")
    assert other["publish leaf"][0].parent == "b7ad6b7169203331"
    assert other["publish leaf"][0].links == [succeeded.id]
    assert other["send"][0].parent == other["process leaf"][0].id


def test_names_of_attributes_are_those_of_the_conventions(service: Service, collector: Collector) -> None:
    seq = service.publish("tree.names", subject="x")["seq"]
    service.finished(seq)
    arrived(collector, trace_of(service, seq), "settle tree.names", *["process branch.names"] * 2)
    known = {f"exception.{name}" for name in ("type", "message", "stacktrace", "escaped")}
    for module in (cloudevents_attributes, error_attributes, messaging_attributes):
        known |= {value for value in vars(module).values() if isinstance(value, str)}
    for span in collector.spans:
        used = span.attributes.keys() | {name for _, about in span.events for name in about}
        assert not [name for name in used - known if not name.startswith(("busway.", "shop."))], span.name


def test_answers_that_waited_are_deliveries(service: Service, collector: Collector) -> None:
    answer = service.request("POST", "/v1/events", json={"type": "leaf.wait"}, headers={"Prefer": "wait=60"})
    assert answer.status_code == 200
    assert service.ok("GET", "/v1/results?types=leaf.wait&kinds=succeeded&wait=60")["items"]
    trace = trace_of(service, answer.json()["event"]["seq"])
    if service.beside is None:  # else another node may have read the result much later
        spans = arrived(collector, trace, *["deliver leaf.wait"] * 2, "process leaf.wait")
        assert {span.parent for span in spans["deliver leaf.wait"]} == {spans["process leaf.wait"][0].id}


def test_logs_name_event_run_and_trace(service: Service, collector: Collector) -> None:
    receipt = service.publish("tree.log")
    trace = trace_of(service, receipt["seq"])
    service.finished(receipt["seq"])
    arrived(collector, trace, *["process branch.log"] * 2)
    service.logged("looked up")
    text = service.logged(f"trace {trace}")
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    (output,) = (
        line for line in lines if line["event"].endswith("looked up") and line.get("trace_id") == trace
    )
    (failure,) = (line for line in lines if line["logger"] == "busway.runs" and line["trace_id"] == trace)
    assert output["event_id"] == receipt["id"]
    assert output["seq"] == receipt["seq"]
    assert {output["handler"], failure["handler"]} == {"first", "second"}
    assert output["run"]
    assert failure["run"]


def test_events_from_everywhere_have_a_trace(service: Service, collector: Collector) -> None:
    """A new trace begins with the event, whatever brought it: HTTP, NDJSON, a WebSocket, a schedule."""
    with service.connect() as socket:
        socket.send(json.dumps({"op": "publish", "ref": 1, "event": {"type": "leaf.socket"}}))
        seqs = {"leaf.socket": json.loads(socket.recv(timeout=PATIENCE))["seq"]}
    seqs |= {"leaf.one": service.publish("leaf.one")["seq"]}
    line = json.dumps({"type": "leaf.line"}).encode()
    for headers in ({}, {"Producer-Id": "traces"}):
        kind = {"Content-Type": "application/x-ndjson", **headers}
        assert service.request("POST", "/v1/events", content=line, headers=kind).status_code == 202
    service.ok("POST", "/v1/schedules", {"name": "t", "every": "1d", "event": {"type": "leaf.due"}})
    service.ok("POST", "/v1/schedules/t/run")
    for type_ in ("leaf.line", "leaf.due"):
        for event in service.ok("GET", f"/v1/events?type={type_}")["items"]:
            seqs[f"{type_} {event['seq']}"] = event["seq"]
    assert len(seqs) == 5
    for name, seq in seqs.items():
        type_, trace = name.split()[0], trace_of(service, seq)
        spans = arrived(collector, trace, f"publish {type_}", f"process {type_}", "send")
        assert spans[f"publish {type_}"][0].parent == "", name
        assert spans[f"process {type_}"][0].parent == spans[f"publish {type_}"][0].id
        assert not {"b7ad6b7169203331", PARENT} & {span.parent for span in collector.of(trace)}


def test_a_trace_that_its_publisher_does_not_sample_has_no_span(
    service: Service, collector: Collector
) -> None:
    unwanted = "0123456789abcdef0123456789abcdef"
    seq = service.publish("leaf.quiet", traceparent=f"00-{unwanted}-{PARENT}-00")["seq"]
    service.finished(seq)
    after = service.publish("leaf.after")["seq"]
    arrived(collector, trace_of(service, after), "process leaf.after", "send")
    assert collector.of(unwanted) == []


def test_attempts_that_are_cancelled_have_spans(service: Service, collector: Collector) -> None:
    seq = service.publish("long.one")["seq"]
    run = service.ok("GET", f"/v1/events/{seq}")["runs"][0]["id"]
    until(lambda: service.ok("GET", f"/v1/runs/{run}")["state"] == "running", "it to run")
    service.ok("POST", f"/v1/runs/{run}/cancel")
    trace = trace_of(service, seq)
    if service.beside is None:  # else another node may have run it, and has no span of it
        span = arrived(collector, trace, "process long.one")["process long.one"][0]
        assert span.attributes["error.type"] == "Cancelled"


def test_receivers_of_webhooks_get_the_span_of_the_attempt(service: Service, collector: Collector) -> None:
    handler = {"name": "hook", "target": f"{collector.url}/hook", "events": ["out.*"]}
    service.ok("POST", "/v1/handlers", handler)
    trace = "11112222333344445555666677778888"
    sent = f"00-{trace}-{PARENT}-01"
    service.finished(service.publish("out.one", traceparent=sent)["seq"])
    (headers,) = collector.events
    (span,) = arrived(collector, trace, "process out.one")["process out.one"]
    assert headers["traceparent"] == f"00-{trace}-{span.id}-01"
    assert headers["ce-traceparent"] == sent
    assert span.attributes["busway.pool"] == "http"


def test_spans_contain_no_payload_and_no_secret(service: Service, collector: Collector) -> None:
    service.finished(service.publish("tree.secret", "PAYLOAD in")["seq"])
    seq = service.publish("branch.secret", "PAYLOAD in")["seq"]
    service.finished(seq)
    spans = arrived(collector, trace_of(service, seq), *["process branch.secret"] * 2)
    failed = min(spans["process branch.secret"], key=lambda span: int(span.attributes["busway.attempt"]))
    assert "no total for" in failed.events[0][1]["exception.message"]
    charged = arrived(collector, trace_of(service, seq), *["charge"] * 2)["charge"]
    (error,) = (event for span in charged for _, event in span.events)
    assert error["exception.message"] == "no total for ***"
    assert all(headers["api-key"] == "SECRETKEY" for headers in collector.headers)
    for body in collector.bodies:
        assert not [word for word in (b"PAYLOAD", b"SECRETKEY", b"SECRETVALUE") if word in body]


def test_a_collector_that_fails_or_hangs_costs_only_spans(service: Service, collector: Collector) -> None:
    def lost() -> float:
        lines = service.client.get(f"{service.own_url}/metrics").text.splitlines()
        counts = dict(line.split() for line in lines if line.startswith("busway_trace_spans_total"))
        return float(counts['busway_trace_spans_total{outcome="failed"}'])

    before, begun = lost(), time.monotonic()
    collector.status = 400
    try:
        service.all_finished([service.publish("leaf.lost") for _ in range(20)])
        until(lambda: lost() > before, "spans to be counted as lost")
        text = service.logged("does not take spans (status 400)")
        assert text.count("does not take spans") <= len(service.urls) * minutes_since(begun)
        assert "opentelemetry" not in text
        assert "SECRETKEY" not in text
    finally:
        collector.status = 200
    seq = service.publish("leaf.again")["seq"]
    arrived(collector, trace_of(service, seq), "process leaf.again")


def minutes_since(begun: float) -> int:
    """How many minutes have begun since then: each node may say once in each that spans are lost."""
    return 1 + int((time.monotonic() - begun) // 60)


@contextmanager
def nobody(hangs: bool) -> Iterator[int]:
    """The port of a collector that is away, or that takes connections and never answers."""
    if not hangs:
        yield unused_port()
        return
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listening:
        yield int(listening.getsockname()[1])


@pytest.mark.parametrize("first", ["lost", "refused"])
def test_a_node_says_once_a_minute_that_spans_are_lost(first: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whether a span is lost before the collector was asked at the start, or after it."""
    losses = Losses("collector:4318")
    if first == "refused":
        losses.refused()
    losses.add("dropped", 1)
    losses.refused()
    losses.add("failed", 1)
    assert len(caplog.messages) == 1
    assert losses.counts["dropped"] + losses.counts["failed"] == 2


@pytest.mark.parametrize("hangs", [False, True], ids=["away", "hangs"])
def test_a_collector_that_is_away_does_not_hold_up_anything(
    make_service: Serve, hangs: bool, request: pytest.FixtureRequest
) -> None:
    stack = ExitStack()
    request.addfinalizer(stack.close)
    port = stack.enter_context(nobody(hangs))
    service = make_service(workers=1)
    service.write("shop.py", HANDLERS)
    service.variables = {
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://user:SECRETKEY@127.0.0.1:{port}/v1/traces",
        "OTEL_BSP_MAX_QUEUE_SIZE": "50",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "600",  # longer than the gateway may take to end
    }
    begun = time.monotonic()
    service.start()
    service.logged("does not take spans")  # before there are any
    service.all_finished([service.publish("leaf.away") for _ in range(100)])

    def lost() -> list[str]:
        counts = [service.client.get(f"{url}/metrics").text.splitlines() for url in service.urls]
        assert all('busway_trace_spans_total{outcome="sent"} 0.0' in lines for lines in counts)
        dropped = [line for lines in counts for line in lines if 'outcome="dropped"} ' in line]
        return [line for line in dropped if not line.endswith(" 0.0")]

    until(lost, "spans to be dropped")
    nodes = len(service.urls)
    assert service.stop() == 0
    text = service.log.read_text()
    assert 1 <= text.count("does not take spans") <= nodes * minutes_since(begun)
    assert "SECRETKEY" not in text
