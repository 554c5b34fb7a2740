"""`--reload`: new handler code takes over without losing a run, and each run records the revision it ran."""

from __future__ import annotations

import itertools
import os
import random
import signal
import textwrap
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.servers import chosen

from .conftest import Serve
from .load import HANDLERS, Publisher, Subscriber, check
from .service import Service, until

CODE = """
import os, time
from busway import handler

VERSION = {version}

@handler("t")
def versioned(event, ctx):
    return [VERSION, ctx.revision]

@handler("slow")
def slow(event, ctx):
    open(event.data, "a").close()
    while not os.path.exists(event.data + ".go"):
        time.sleep(0.01)
    return [VERSION, ctx.revision]

def free(event, ctx):
    return [VERSION, ctx.revision]
"""


def on_each_node(service: Service, known: Callable[[], bool], what: str) -> None:
    """Wait until nodes, which get requests in turn, all have the same code, and each of them knows something.

    Until then a node may run the code of before: that is right, and its runs say so.
    """

    def settled() -> bool:
        nodes = service.ok("GET", "/v1/status")["nodes"]
        return len({node["code"] for node in nodes}) <= 1 and known()

    # An odd number of requests changes turns: each node is asked for its nodes.
    until(lambda: all(settled() for _ in range(2)), what)


def waits_because(service: Service, handler: str, why: str) -> None:
    def known() -> bool:
        return all(service.ok("GET", f"/v1/handlers/{handler}")["waits_because"] == why for _ in range(2))

    on_each_node(service, known, f"{handler} to wait")


def put(service: Service, version: int) -> None:
    service.write("all.py", CODE.format(version=version))


def revision(service: Service, name: str = "versioned") -> int:
    number: int = service.ok("GET", f"/v1/handlers/{name}")["revision"]
    return number


def detail(service: Service, number: int, name: str = "versioned") -> dict[str, Any]:
    found: dict[str, Any] = service.ok("GET", f"/v1/handlers/{name}/revisions/{number}")
    return found


def source(service: Service, number: int, name: str = "versioned") -> str | None:
    text: str | None = detail(service, number, name)["source"]
    return text


def value(service: Service, seq: int) -> object:
    service.finished(seq)
    (result,) = [r for r in service.results() if r["event"]["seq"] == seq and r["kind"] == "succeeded"]
    return result["data"]


def reloaded(service: Service, version: int, *handlers: str) -> None:
    def known() -> bool:
        return all(revision(service, name) == version for name in handlers for _ in range(2))

    on_each_node(service, known, f"revision {version} on each node")


@pytest.fixture
def reloading(make_service: Serve, request: pytest.FixtureRequest) -> Service:
    service = make_service(pool=getattr(request, "param", "process"), reload=True)
    put(service, 1)
    return service.start()


both = pytest.mark.parametrize("reloading", ["process", "thread"], indirect=True)


@both
def test_a_changed_file_makes_a_new_revision_and_runs_record_what_they_ran(reloading: Service) -> None:
    service = reloading
    service.ok("POST", "/v1/handlers", {"name": "mine", "target": "all:free", "events": ["m"]})
    mark = service.folder / "mark"
    running = service.publish("slow", str(mark))["seq"]
    until(mark.exists, "the slow attempt to begin")
    assert value(service, service.publish("t")["seq"]) == [1, 1]
    for version in (2, 3):
        put(service, version)
        reloaded(service, version, "versioned", "mine")
        for type_ in ("t", "m"):
            seq = service.publish(type_)["seq"]
            assert value(service, seq) == [version, version]
            assert service.run_of(seq)["revision"] == version
    mark.with_name("mark.go").touch()
    assert value(service, running) == [1, 1]
    assert service.run_of(running)["revision"] == 1
    assert [r["revision"] for r in service.ok("GET", "/v1/handlers/versioned/revisions")["items"]] == [
        3,
        2,
        1,
    ]
    for version in (1, 2, 3):
        assert source(service, version) == CODE.format(version=version)
    assert source(service, 3, "mine") == source(service, 3)
    assert service.get("/v1/handlers/versioned/revisions/4").status_code == 404
    service.write("all.py", CODE.format(version=4) + f"# {'x' * 300_000}")
    until(lambda: revision(service) == 4, "the new revision")
    assert "300" in str(detail(service, 4)["source_missing"])


@pytest.mark.long
@pytest.mark.fault
def test_each_revision_has_the_source_that_ran_while_a_file_changes_quickly_and_gateways_die(
    make_service: Serve,
) -> None:
    service = make_service(reload=True, workers=1)
    chance, over, acknowledged = random.Random(5), threading.Event(), list[int]()
    # While a file changes all the time, it is not loaded.
    pauses = [chance.choice([0.05, 0.5, 2.0]) * chance.random() for _ in range(1000)]
    put(service, 1)

    def rewrite() -> None:
        for version, pause in enumerate(itertools.cycle(pauses), 2):
            if over.wait(pause):
                return
            put(service, version)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(3):
            service.start()
            last = revision(service) + chance.randrange(1, 4)
            while revision(service) < last:
                acknowledged.append(service.publish("t")["seq"])
            time.sleep(chance.random() / 2)
            service.kill()
    finally:
        over.set()
        writer.join()
    service.start()
    sources = {number: source(service, number) for number in range(1, revision(service) + 1)}
    assert None not in sources.values()
    service.finished(acknowledged[-1])
    until(lambda: len(ended(service)) >= len(acknowledged), "all results")
    if chosen.NODES > 1:  # while they start with different code, one may run what no revision has
        return
    for version, number in ended(service):
        assert sources[number] == CODE.format(version=version)


def ended(service: Service) -> list[Any]:
    return [result["data"] for result in service.results() if result["kind"] == "succeeded"]


@both
def test_a_file_that_breaks_is_reported_its_runs_wait_and_run_when_it_is_mended(reloading: Service) -> None:
    service = reloading
    service.write("all.py", "1 / 0\n")
    until(lambda: service.ok("GET", "/v1/status")["files_that_do_not_import"], "the report")
    waits_because(service, "versioned", "all.py does not import")
    seq = service.publish("t")["seq"]
    assert service.ok("GET", f"/v1/events/{seq}")["runs"][0]["state"] == "available"
    assert service.post("/v1/handlers/versioned/test", {"event": {"type": "t"}}).status_code == 409
    put(service, 2)
    assert value(service, seq) == [2, 2]
    assert service.ok("GET", "/v1/status")["files_that_do_not_import"] == []


@pytest.mark.long
def test_a_handler_whose_annotation_breaks_waits_alone(reloading: Service) -> None:
    service = reloading
    typed = """
        from __future__ import annotations
        from busway import Event, handler
        @handler("n")
        def numbered(event: Event[{}]): return event.data
        @handler("w")
        def worded(event: Event[str]): return event.data
    """
    service.write("typed.py", textwrap.dedent(typed.format("int")))
    until(lambda: service.get("/v1/handlers/numbered").status_code == 200, "the new handlers")
    service.write("typed.py", textwrap.dedent(typed.format("itn")))
    why = "typed.py has targets that cannot be loaded"
    waits_because(service, "numbered", why)
    assert value(service, service.publish("w", "works")["seq"]) == "works"
    seq = service.publish("n", 7)["seq"]
    assert service.ok("GET", f"/v1/events/{seq}")["runs"][0]["state"] == "available"
    service.write("typed.py", textwrap.dedent(typed.format("int")))
    assert value(service, seq) == 7


@pytest.mark.long
def test_handlers_come_and_go_with_the_code(reloading: Service) -> None:
    service = reloading
    service.write("more.py", "from busway import handler\n@handler('t')\ndef added(event): return 1\n")
    until(lambda: service.get("/v1/handlers/added").status_code == 200, "the new handler")
    assert service.publish("t")["runs"] == 2
    (service.handlers / "more.py").unlink()
    until(
        lambda: "no longer declares" in (service.ok("GET", "/v1/handlers/added")["waits_because"] or ""),
        "it to be missed",
    )
    assert service.publish("t")["runs"] == 1


@pytest.mark.long
@pytest.mark.fault
@both
def test_reloading_under_load_loses_and_repeats_nothing(reloading: Service) -> None:
    service = reloading
    service.write("load.py", HANDLERS)
    until(lambda: service.get("/v1/handlers/leaf").status_code == 200, "the handlers")
    publisher, subscriber = Publisher(service, 7), Subscriber(service)
    for version in range(2, 8):
        service.write("load.py", HANDLERS + f"# version {version}\n")
        until(lambda version=version: revision(service, "leaf") == version, "the new revision")
    check(service, publisher, subscriber)


@pytest.mark.fault
@pytest.mark.one_node("kills the zygote of one node, and the others keep their code")
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_without_reload_a_zygote_that_dies_brings_the_changed_code_under_a_new_revision(
    make_service: Serve, pool: str
) -> None:
    service = make_service(pool=pool)
    put(service, 1)
    service.start()
    put(service, 2)
    assert value(service, service.publish("t")["seq"]) == [1, 1]
    os.kill(service.ok("GET", "/v1/status")["workers"]["zygote"]["pid"], signal.SIGKILL)
    until(lambda: revision(service) == 2, "the new revision")
    assert value(service, service.publish("t")["seq"]) == [2, 2]


JOBS = """
from busway import handler

@handler("billed")
def bill(event, ctx):
    return [{version}, ctx.revision]

def make():
    @handler("never")
    def inner(event): ...
make()
"""


@pytest.mark.long
def test_code_of_the_project_and_of_packages_belongs_to_the_folder(make_service: Serve) -> None:
    service = make_service(reload=True, workers=1)
    project = service.folder / "project"
    (project / "app").mkdir(parents=True)
    service.options["app_dir"] = project

    def save(text: str) -> None:
        new = project / "app" / ".new"
        new.write_text(text)
        new.replace(project / "app" / "jobs.py")

    save(JOBS.format(version=1))
    service.write("all.py", "import app.jobs\n")
    (service.handlers / "shop").mkdir()
    packed = 'from busway import handler\n@handler("packed")\ndef pack(event): return 1\n'
    (service.handlers / "shop/jobs.py").write_text(packed)
    (service.handlers / "my-pkg").mkdir()
    (service.handlers / "my-pkg/x.py").write_text("def f(event): ...\n")
    service.start()
    left_out = {
        "my-pkg/": "it is not a valid package name: rename it to letters, digits and '_'",
        "app/jobs.py": "make.<locals>.inner() has @handler, but is not loaded: it is defined inside a "
        "function: move it to the top level of its module",
    }
    items = service.ok("GET", "/v1/targets")["items"]
    assert {item["file"]: item["error"] for item in items if "file" in item} == left_out
    assert [item["target"] for item in items if "target" in item] == ["app.jobs:bill", "shop.jobs:pack"]
    for file, why in left_out.items():
        service.logged(f"not loaded: {file}: {why}")
    assert service.ok("GET", "/readyz")["trouble"] == []
    assert value(service, service.publish("packed")["seq"]) == 1
    assert value(service, service.publish("billed")["seq"]) == [1, 1]

    save("import nowhere\n")
    waits_because(service, "bill", "no file imports its module, and all.py does not import")
    seq = service.publish("billed")["seq"]
    save(JOBS.format(version=2))
    assert value(service, seq) == [2, 2]

    service.write("all.py", "")
    until(lambda: service.ok("GET", "/v1/handlers/bill")["missing"], "the handler to be missing")
