"""Type checkers know what users import: examples and snippets pass, and each mistake is one error."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .node import Node

pytestmark = pytest.mark.long  # mypy reads all of Busway and its libraries

ROOT = Path(__file__).parents[2]
# The tutorial is one project, whose own test checks its types.
PAGES = [ROOT / "README.md", *sorted({*(ROOT / "docs").glob("*.md")} - {ROOT / "docs/tutorial.md"})]
BLOCK = re.compile(r"^```python\n(?:# (\S+)\n)?(.*?)^```", re.MULTILINE | re.DOTALL)

HEAD = """
from __future__ import annotations
from dataclasses import dataclass
from busway import Client, Completed, Context, Event, Gap, Item, NotCompleted, Receipt, Retry
from busway import Subscription, SyncClient, handler

@dataclass
class Order:
    item: str
    quantity: int
"""
GOOD = {
    "handlers": '''
@handler("a.*", "b", name="x", pool="thread", timeout=1, max_attempts=2, backoff={"initial": 0.5, "max": 9},
         filter={"exact": {"subject": "s"}}, concurrency=1, rate="1/s", ordered=True, memory=64, paused=False,
         description="d")
def typed(event: Event[Order], ctx: Context) -> int:
    ctx.progress(0.5, "half")
    ctx.publish("made", event.data, subject=event.subject, deliverat=event.time)
    return event.data.quantity

@handler("a", pool=None)
async def untyped(event: Event) -> object:
    return event.data["anything"].goes
''',
    "clients": '''
async def follow(client: Client) -> list[str]:
    results: Subscription = client.subscribe("a.*", kinds=["succeeded"], after="earliest")
    try:
        done: Completed = await client.wait("a", {"n": 1}, timeout=3, partitionkey="k")
    except NotCompleted as problem:
        return [item.kind for item in problem.results]
    except Gap as gap:
        return [gap.oldest]
    receipt: Receipt = await client.publish("a", Order("x", 1))
    items: list[Item] = done.results
    async for item in results:
        items.append(item)
        break
    return [*(item.event.type for item in items), str(receipt.seq), str(done.completes.get("dead"))]

def wait(client: SyncClient) -> int:
    with client.subscribe(after="earliest") as results:
        for item in results:
            return item.attempt + (0 if item.index is None else item.index)
    return 0
''',
}  # fmt: skip
WRONG = {
    "pool": '@handler("a", pool="proces")  # wrong\ndef f(event: Event) -> None: ...',
    "option": '@handler("a", timeot=3)  # wrong\ndef f(event: Event) -> None: ...',
    "number": '@handler("a", timeout="3")  # wrong\ndef f(event: Event) -> None: ...',
    "backoff": '@handler("a", backoff={"inital": 1})  # wrong\ndef f(event: Event) -> None: ...',
    "event": "def f(event: Event) -> object:\n    return event.dat  # wrong",
    "data": "def f(event: Event[Order]) -> object:\n    return event.data.quantty  # wrong",
    "kind_of_data": "def f(event: Event[Order]) -> str:\n    return event.data.quantity  # wrong",
    "context": 'def f(ctx: Context) -> None:\n    ctx.progres(0.5, "x")  # wrong',
    "attribute": 'def f(ctx: Context) -> None:\n    ctx.publish("a", subject=3.5)  # wrong',
    "item": "def f(item: Item) -> object:\n    return item.knid  # wrong",
    "receipt": "def f(receipt: Receipt) -> object:\n    return receipt.sequence  # wrong",
    "completed": "def f(done: Completed) -> object:\n    return done.result  # wrong",
    "gap": "def f(gap: Gap) -> object:\n    return gap.newest  # wrong",
    "subscribe": 'def f(client: SyncClient) -> object:\n    return client.subscribe(kind=["dead"])  # wrong',
    "awaited": 'async def f(client: Client) -> str:\n    return (await client.publish("a")).seq  # wrong',
    "name": "from busway import Evnt  # wrong",
    "member": "import busway\nx = busway.Evnt  # wrong",
    "retry": "def f() -> None:\n    raise Retry(afer=3)  # wrong",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our examples and snippets in `right`, and one mistake in each file of `wrong`."""
    folder = tmp_path_factory.mktemp("typing")
    examples = ROOT / "examples"
    for path in examples.rglob("*.py"):
        own = "_".join(path.relative_to(examples).parts)
        write(folder / "right" / own, path.read_text(encoding="utf-8"))
    for page in PAGES:
        for number, (name, text) in enumerate(BLOCK.findall(page.read_text(encoding="utf-8"))):
            # Files of docs/testing.md import one another.
            own = Path(name).name if name and page.stem == "testing" else f"{page.stem.lower()}_{number}.py"
            write(folder / "right" / own, text)
    for name, text in GOOD.items():
        write(folder / "right" / f"good_{name}.py", HEAD + text)
    for name, text in WRONG.items():
        write(folder / "wrong" / f"wrong_{name}.py", HEAD + text + "\n")
    return folder


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    assert not path.exists(), f"two snippets are called {path.name}"
    path.write_text(text, encoding="utf-8")


Found = dict[str, list[str]]
"""Errors by file, each with its line."""


def mypy(folder: Path) -> Found:
    said = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={folder / 'cache'}",
         "--no-error-summary", "--hide-error-context", "right", "wrong"],
        cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "MYPYPATH": f"{ROOT / 'app'}{os.pathsep}{folder / 'right'}"},
    )  # fmt: skip
    assert said.returncode in {0, 1}, said.stdout + said.stderr
    return grouped(re.findall(r"^(?:right|wrong)/(\S+?):(\d+): (error: .+)$", said.stdout, re.MULTILINE))


def pyright(folder: Path, node: Node) -> Found:
    paths = [str(ROOT / "app"), str(folder / "right")]
    settings = {"include": ["right", "wrong"], "extraPaths": paths, "pythonVersion": "3.11"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings), encoding="utf-8")
    said = node.run(
        "node_modules/pyright/index.js",
        *("--project", folder, "--pythonpath", sys.executable, "--outputjson"),
    )
    errors = [each for each in json.loads(said.stdout)["generalDiagnostics"] if each["severity"] == "error"]
    lines = ((each["range"]["start"]["line"] + 1, each["message"]) for each in errors)
    return grouped([(Path(e["file"]).name, *line) for e, line in zip(errors, lines, strict=True)])


def grouped(errors: list[tuple[str, int | str, str]]) -> Found:
    found: Found = collections.defaultdict(list)
    for name, line, text in errors:
        found[name].append(f"{line}: {text}")
    return found


@pytest.fixture(scope="module", params=["mypy", "pyright"])
def found(request: pytest.FixtureRequest, folder: Path) -> Found:
    return mypy(folder) if request.param == "mypy" else pyright(folder, request.getfixturevalue("node"))


def test_examples_and_snippets_pass(found: Found) -> None:
    assert {name: errors for name, errors in found.items() if not name.startswith("wrong_")} == {}


def test_each_mistake_is_one_error_in_its_line(found: Found) -> None:
    for name, text in WRONG.items():
        lines = (HEAD + text).splitlines()
        (line,) = (number for number, each in enumerate(lines, 1) if each.endswith("# wrong"))
        errors = found.get(f"wrong_{name}.py", [])
        assert [error.partition(":")[0] for error in errors] == [str(line)], (name, errors)
