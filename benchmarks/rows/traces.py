"""What traces cost: single events and batches without traces, with a tenth of all traces, and with all."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

import psutil

from benchmarks import running
from benchmarks.load import Counter, stored, wrk
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.end_to_end import BATCH, through

SECONDS = 10.0  # of single events
EVENTS = 20_000  # in batches


@contextlib.contextmanager
def busway(sampler: str | None = None, part: str = "") -> Iterator[Once]:
    """A gateway and the receiver of its traces. `sampler`: of its traces, None: it makes none."""
    with contextlib.ExitStack() as stack:
        variables = {}
        if sampler is not None:
            port = running.port()
            command = [sys.executable, "-m", "benchmarks.peers.webhook_sink", str(port)]
            url = f"http://127.0.0.1:{port}"
            stack.enter_context(running.running(command, url))
            variables = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_TRACES_SAMPLER": sampler,
                "OTEL_TRACES_SAMPLER_ARG": part,
            }
        gateway = stack.enter_context(running.busway(variables=variables))
        counter = stack.enter_context(contextlib.closing(Counter(gateway.url)))
        process = psutil.Process(gateway.process.pid)
        wrk(gateway.url + "/v1/events", 1)

        def settled() -> int:
            total = -1
            while total != (total := stored(gateway.url)):  # events were under way when wrk ended
                counter.settle(total)
                time.sleep(0.2)
            return total

        def once(effort: float) -> Reading:
            before, used = settled(), _cpu(process)
            began = time.monotonic()
            reading = wrk(gateway.url + "/v1/events", SECONDS * effort)
            events = settled() - before
            found = {
                "requests_per_s": reading["requests_per_s"],
                "single_events_per_s": events / (counter.last - began),
                "single_gateway_us": (_cpu(process) - used) / events * 1e6,
            }
            used = _cpu(process)
            count = max(2, round(EVENTS * effort / BATCH)) * BATCH
            found["batch_events_per_s"] = through(gateway.url, counter, count)["events_per_s"]
            found["batch_gateway_us"] = (_cpu(process) - used) / count * 1e6
            return found

        yield once


def _cpu(process: psutil.Process) -> float:
    """Return the seconds of CPU that all threads of the gateway have taken."""
    times = process.cpu_times()
    return float(times.user + times.system)


ALL = "busway_traced"

ROW = Row(
    name="traces",
    title="the cost of traces: single events and batches of 1,000, process pool, one subscriber",
    sides=(
        Side(OURS, "without traces", busway),
        Side(
            "busway_tenth",
            "parentbased_traceidratio 0.1, to a receiver on this machine that answers at once",
            lambda: busway("parentbased_traceidratio", "0.1"),
        ),
        Side(ALL, "all traces, to the same kind of receiver", lambda: busway("parentbased_always_on")),
    ),
    comparisons=(
        Comparison("requests_per_s", (OURS,), must=0.8, aim=0.9, side="busway_tenth"),
        Comparison("single_events_per_s", (OURS,), must=0.2, aim=0.8, side=ALL),
    ),
)
