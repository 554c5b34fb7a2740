"""Shell completion, in real shells: bash, and zsh and fish where they are installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from busway.contract.keys import Scope
from busway.gateway.cli.options import SCOPES
from busway.gateway.cli.tail import KINDS

from .service import PATIENCE, Service, clean_environment, until
from .test_commands import CODE, run_of

pytestmark = pytest.mark.long
ROOT = Path(__file__).parents[2]

ASK = {  # completes the words "$@"
    "bash": """
        source script
        COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
        _busway_completion busway
        printf '%s\\n' "${COMPREPLY[@]}"
    """,
    "zsh": """
        compdef() {}; _files() {}
        _arguments() { text=${${1#*\\(\\(}%\\)\\)}; print -rl -- ${${(s:" ":)text}//\\"/} }
        source ./script
        words=("$@"); CURRENT=$#
        _busway_completion
    """,
    "fish": "source script; complete -C (string join ' ' -- $argv)",
}
Complete = Callable[..., list[str]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("completion"), workers=1)
    service.write("all.py", CODE)
    yield service.start()
    service.close()


@pytest.fixture(params=["bash", "zsh", "fish"])
def complete(request: pytest.FixtureRequest, service: Service, tmp_path: Path) -> Complete:
    """Complete words in a shell that has sourced what `busway` prints for it."""
    shell = shutil.which(request.param)
    if shell is None:
        pytest.skip(f"{request.param} is not installed")
    program = tmp_path / "busway"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{PROGRAM}" "$@"\n')
    program.chmod(0o755)
    variables = {**clean_environment(), "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    options: dict[str, Any] = {"cwd": tmp_path, "text": True, "timeout": PATIENCE}
    printed = subprocess.run(
        ["busway"], env={**variables, "_BUSWAY_COMPLETE": f"source_{request.param}"},
        stdout=subprocess.PIPE, check=True, **options,
    ).stdout  # fmt: skip
    (tmp_path / "script").write_text(printed)
    (tmp_path / "ask").write_text(ASK[request.param])

    def completed(*words: str, url: str = "") -> list[str]:
        done = subprocess.run(
            [shell, "ask", "busway", *words], env={**variables, "BUSWAY_URL": url or service.url},
            stdout=subprocess.PIPE, check=True, **options,
        )  # fmt: skip
        return [re.split(r"[\t:](?=\S+ )|\t", line)[0] for line in done.stdout.splitlines() if line]

    return completed


PROGRAM = "import sys; sys.argv[0] = 'busway'; from busway.gateway.start import main; main()"


def test_it_knows_commands_options_and_what_the_gateway_has(service: Service, complete: Complete) -> None:
    dead = run_of(service, "odd.one", 1, "dead")
    assert {"runs", "run"} <= set(complete("ru"))
    assert "dead" in complete("runs", "--state", "d")
    assert "--handler" in complete("retry", "--h")
    assert complete("tail", "--kind", "su") == ["succeeded"]
    assert complete("serve", "--role", "g") == ["gateway"]
    assert complete("invoke", f"--handlers={service.handlers}", "hel") == ["hello"]
    for words, known in (
        (("pause", "h"), {"hang", "hello"}),
        (("runs", "--handler", "hel"), {"hello"}),
        (("publish", "gr"), {"greet"}),
        (("tail", "odd"), {"odd.*"}),
        (("retry", str(dead)), {str(dead)}),
    ):
        until(lambda words=words, known=known: set(complete(*words)) == known, f"{words} within a second")
    assert complete("pause", "hel", url="http://127.0.0.1:9") == []


def test_its_words_are_those_of_the_gateway_and_the_console() -> None:
    console = ROOT / "app/busway/gateway/api/static/console/pages/live.js"
    (words,) = re.findall(r"^const KINDS = \[(.*)\];", console.read_text(encoding="utf-8"), re.MULTILINE)
    assert list(KINDS) == re.findall(r'"(\w+)"', words)
    assert set(SCOPES) == set(get_args(Scope))
