"""GET /metrics in Prometheus' text format. The stages keep the counts; this module reads them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Response
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from busway.domain.histogram import Histogram
from busway.domain.run import RunState
from busway.domain.times import SECOND
from busway.gateway import log_limit, streams
from busway.gateway.api.access import needs
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.door.room import counts
from busway.gateway.limits import hits
from busway.version import __version__

router = APIRouter(tags=["service"])

LIMITS = (
    *("head_size", "head_timeout", "body_size", "body_timeout", "upload_timeout", "stalled"),
    *("key_rate", "key_connections", "key_subscriptions", "key_bytes"),
    *("address_rate", "address_connections", "address_subscriptions", "address_bytes"),
)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_EXAMPLE = 'busway_events_accepted_total 3.0\nbusway_runs{handler="invoice",state="succeeded"} 3.0\n'


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    dependencies=needs("handlers:read"),
    response_class=Response,
    responses={
        200: {
            "description": "Metrics in the text format 0.0.4.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": _EXAMPLE}},
        }
    },
)
async def read_metrics(stages: StagesDep) -> Response:
    """Returns metrics of events, runs, attempts, workers, commits and subscribers.

    If the gateway has API keys, the key needs the scope `handlers:read`.
    """
    events, results = await stages.reader.totals()
    registry = CollectorRegistry()
    runs = _runs(stages, await stages.reader.counts(), await stages.reader.oldest(stages.clock()))
    registry.register(_Collected([*_log(events, results), *runs]))
    registry.register(
        _Collected([*_attempts(stages), *_workers(stages), *_store(stages), *_subscribers(stages)])
    )
    registry.register(_Collected([*_past_and_time(stages), *_webhooks(stages)]))
    registry.register(_Collected([*_cell(stages), *_broker(stages), *_access(stages)]))
    registry.register(_Collected([*_door(), *_tls(stages), *_memory(stages), *_log_lines(), *_spans(stages)]))
    ProcessCollector(registry=registry)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE)


class _Collected(Collector):
    def __init__(self, found: list[Metric]) -> None:
        self._found = found

    def collect(self) -> list[Metric]:
        return self._found


def _log(events: int, results: int) -> Iterator[Metric]:
    about = GaugeMetricFamily("busway_info", "The running version.", labels=["version"])
    about.add_metric([__version__], 1)
    yield about
    yield CounterMetricFamily(
        "busway_events_accepted", "Events stored, including those published by handlers.", value=events
    )
    yield CounterMetricFamily("busway_results", "Results stored.", value=results)


def _runs(stages: Stages, counts: dict[int, dict[str, int]], oldest: dict[int, int]) -> Iterator[Metric]:
    runs = GaugeMetricFamily("busway_runs", "Runs in the store.", labels=["handler", "state"])
    ages = GaugeMetricFamily(
        "busway_runs_oldest_seconds",
        "How long the oldest run that is due has waited, 0 if none waits.",
        labels=["handler"],
    )
    held = GaugeMetricFamily(
        "busway_runs_held", "Waiting runs that this node holds in memory.", labels=["handler"]
    )
    now = stages.clock()
    for entry in stages.registry.live():
        name, known = entry.handler.name, counts.get(entry.handler.id, {})
        for state in RunState:
            runs.add_metric([name, state], known.get(state, 0))
        ages.add_metric([name], max(0, now - oldest.get(entry.handler.id, now)) / SECOND)
        held.add_metric([name], stages.dispatcher.waiting(entry.handler.id))
    yield from (runs, ages, held)


def _attempts(stages: Stages) -> Iterator[Metric]:
    seconds = HistogramMetricFamily(
        "busway_attempt_seconds", "Duration of attempts.", labels=["handler", "pool", "outcome"]
    )
    for labels, histogram in sorted(stages.recorder.durations.attempts().items()):
        seconds.add_metric(labels, histogram.cumulative(), histogram.total)
    waits = HistogramMetricFamily(
        "busway_queue_wait_seconds",
        "How long due runs waited for an attempt.",
        labels=["handler"],
    )
    for name, histogram in sorted(stages.recorder.durations.waits().items()):
        waits.add_metric([name], histogram.cumulative(), histogram.total)
    yield from (seconds, waits)


def _workers(stages: Stages) -> Iterator[Metric]:
    status = stages.workers.status()
    workers = GaugeMetricFamily("busway_workers", "Worker processes.", labels=["pool", "state"])
    running = GaugeMetricFamily("busway_pool_running", "Attempts assigned to workers.", labels=["pool"])
    threads = GaugeMetricFamily("busway_pool_threads", "Threads for sync handlers.", labels=["pool"])
    delayed = GaugeMetricFamily(
        "busway_pool_delayed", "1 while a crash loop delays new workers.", labels=["pool"]
    )
    for name, pool in status["pools"].items():
        states = [worker["state"] for worker in pool["workers"]]
        for state in sorted({"ready", *states}):
            workers.add_metric([name, state], states.count(state))
        running.add_metric([name], pool["running"])
        threads.add_metric([name], pool.get("processes", 0) * pool.get("threads", 0))
        delayed.add_metric([name], pool.get("delayed", False))
    yield from (workers, running, threads, delayed, _deaths(status))
    yield CounterMetricFamily(
        "busway_zygote_restarts", "Restarts of the zygote.", value=status["zygote"]["restarts"]
    )


def _deaths(status: dict[str, Any]) -> Metric:
    deaths = CounterMetricFamily(
        "busway_worker_deaths",
        "Dead workers. Cause: `ended` or `killed` (by the gateway), an exit status or a signal.",
        labels=["pool", "cause"],
    )
    for pool, causes in status["deaths"].items():
        for cause, number in causes.items():
            deaths.add_metric([pool, cause], number)
    return deaths


def _store(stages: Stages) -> Iterator[Metric]:
    stats = stages.commits.stats
    yield _one("busway_commit_operations", "Operations per commit.", stats.sizes)
    yield _one("busway_commit_seconds", "Time from sending a batch to its synced commit.", stats.seconds)
    yield _one(
        "busway_commit_wait_seconds", "Time until a batch could begin, because others wrote.", stats.waits
    )
    yield CounterMetricFamily(
        "busway_commit_failures", "Batches with an unknown outcome.", value=stats.failures
    )
    yield GaugeMetricFamily(
        "busway_commit_backlog", "Operations not committed yet.", value=stages.commits.backlog
    )
    yield GaugeMetricFamily(
        "busway_store_healthy", "1 if the last commit succeeded.", value=stages.commits.healthy
    )


def _one(name: str, text: str, histogram: Histogram) -> Metric:
    return HistogramMetricFamily(name, text, buckets=histogram.cumulative(), sum_value=histogram.total)


def _past_and_time(stages: Stages) -> Iterator[Metric]:
    replays, firings = stages.replays, stages.schedules.firings
    yield GaugeMetricFamily(
        "busway_replays_unfinished", "Unfinished replays, if this node leads.", value=replays.unfinished
    )
    yield CounterMetricFamily(
        "busway_replay_runs", "Runs that this node has created for replays.", value=replays.created
    )
    yield CounterMetricFamily(
        "busway_schedule_firings", "Events that this node has published for schedules.", value=firings.fired
    )
    yield CounterMetricFamily(
        "busway_schedule_missed",
        "How often this node has left out firings that a schedule had missed.",
        value=firings.missed,
    )


def _webhooks(stages: Stages) -> Iterator[Metric]:
    received = CounterMetricFamily(
        "busway_webhooks_received",
        "Webhooks received. Outcome: `stored`, `duplicate`, `ignored` (nothing to store), `refused` (the "
        "signature is wrong, or there is no such source) or `failed`.",
        labels=["source", "outcome"],
    )
    for labels, number in sorted(stages.gate.hooks.counts.items()):
        received.add_metric(labels, number)
    yield received


def _door() -> Iterator[Metric]:
    yield CounterMetricFamily(
        "busway_connections_cut", "Idle connections closed to free file descriptors.", value=counts.cut
    )
    yield CounterMetricFamily(
        "busway_accept_errors", "Connections that could not be accepted.", value=counts.unaccepted
    )
    reached = CounterMetricFamily(
        "busway_limits_reached",
        "Requests, connections and subscriptions that a limit ended or refused.",
        labels=["limit"],
    )
    for name in LIMITS:
        reached.add_metric([name], hits[name])
    yield reached


def _tls(stages: Stages) -> Iterator[Metric]:
    certificate = stages.certificate
    if certificate is None:
        return
    yield GaugeMetricFamily(
        "busway_tls_certificate_expiry_seconds",
        "When the certificate in use expires, in seconds since 1970.",
        value=certificate.expires_at,
    )
    yield CounterMetricFamily(
        "busway_tls_reloads", "Changed certificates that were taken.", value=certificate.reloads
    )
    yield CounterMetricFamily(
        "busway_tls_reload_failures",
        "Changed certificates or keys that were refused.",
        value=certificate.failures,
    )


def _log_lines() -> Iterator[Metric]:
    queue = streams.log()
    yield CounterMetricFamily(
        "busway_log_lines_left_out",
        "Log lines left out because there were too many of the same kind in a second.",
        value=log_limit.limit.left_out,
    )
    yield CounterMetricFamily(
        "busway_log_lines_dropped",
        "Log lines dropped because standard error was not read or could not be written.",
        value=queue.dropped if queue else 0,
    )


def _spans(stages: Stages) -> Iterator[Metric]:
    if stages.spans is None:
        return
    spans = CounterMetricFamily(
        "busway_trace_spans",
        "Spans of traces. Outcome: `sent`, `failed` (the collector did not take them), `dropped` (too many).",
        labels=["outcome"],
    )
    for outcome, number in stages.spans.items():
        spans.add_metric([outcome], number)
    yield spans


def _cell(stages: Stages) -> Iterator[Metric]:
    cell = stages.nodes.status()
    this = cell.this
    about = GaugeMetricFamily("busway_node_info", "This node.", labels=["node", "id", "role"])
    about.add_metric([stages.nodes.name, str(stages.nodes.id), stages.settings.role], 1)
    yield about
    nodes = GaugeMetricFamily("busway_nodes", "Nodes that use the database.", labels=["role"])
    roles = Counter(node.role for node in cell.nodes)
    for role in ("all", "gateway", "worker"):
        nodes.add_metric([role], roles[role])
    yield nodes
    yield GaugeMetricFamily("busway_leader_known", "1 if this node knows a leader.", value=cell.led)
    yield GaugeMetricFamily("busway_leader_term", "The newest term.", value=cell.term)
    yield GaugeMetricFamily("busway_node_leads", "1 if this node leads.", value=stages.nodes.leads)
    yield GaugeMetricFamily(
        "busway_node_lag_commits",
        "Commits that this node had not applied when it last reported.",
        value=this.lag if this else 0,
    )


def _access(stages: Stages) -> Iterator[Metric]:
    keys = stages.token_keys
    if keys.source:
        text = "Keys of the issuer of tokens that are known."
        yield GaugeMetricFamily("busway_token_keys", text, value=len(keys))
        text = "1 while they cannot be read."
        yield GaugeMetricFamily("busway_token_keys_stale", text, value=keys.error is not None)
    if stages.keys_file is not None:
        text = "1 while the keys file cannot be used, so that the keys that it had before stay valid."
        yield GaugeMetricFamily("busway_keys_file_stale", text, value=stages.keys_file.error is not None)


def _broker(stages: Stages) -> Iterator[Metric]:
    broker = stages.nodes.broker()
    if broker is None:
        return
    yield GaugeMetricFamily(
        "busway_broker_connected", "1 while this node is connected to the broker.", value=broker.connected
    )
    yield CounterMetricFamily("busway_notifications_sent", "Notifications sent.", value=broker.sent)
    yield CounterMetricFamily(
        "busway_notifications_received", "Notifications from other nodes.", value=broker.received
    )
    ignored = CounterMetricFamily(
        "busway_notifications_ignored",
        "Messages that are not from a node of this database.",
        labels=["reason"],
    )
    for reason, number in sorted(broker.ignored.items()):
        ignored.add_metric([reason], number)
    yield ignored


def _memory(stages: Stages) -> Iterator[Metric]:
    for name, budget, what in (
        ("bodies", stages.bodies, "request bodies that have not arrived completely"),
        ("answers", stages.answers, "answers that clients have not read"),
    ):
        yield GaugeMetricFamily(f"busway_{name}_bytes", f"Memory for {what}.", value=budget.used)
        yield CounterMetricFamily(
            f"busway_{name}_refused", f"Requests refused for lack of memory for {what}.", value=budget.refused
        )


def _subscribers(stages: Stages) -> Iterator[Metric]:
    waiting = GaugeMetricFamily(
        "busway_waiting_requests", "Requests that wait for results (Prefer, wait=).", labels=["kind"]
    )
    waiting.add_metric(["prefer"], len(stages.waits.events))
    waiting.add_metric(["poll"], len(stages.waits.polls))
    yield waiting
    status = stages.hub.status()
    for name, text in {
        "connections": "Connected subscribers.",
        "subscriptions": "Open subscriptions.",
        "lagging": "Subscriptions that are not at the head of the log.",
        "furthest_behind": "Results that the slowest subscription has not received.",
    }.items():
        yield GaugeMetricFamily(f"busway_subscribers_{name}", text, value=status[name])
