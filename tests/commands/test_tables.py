"""Tables on terminals of two widths, with long names and scripts whose characters are wide or combine."""

from __future__ import annotations

import contextlib
import os
import pty
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from busway.gateway.cli.output import print_fields, print_table
from rich.cells import cell_len

NAME = "handler_with_the_longest_name_" + "x" * 33
SCRIPTS = (
    "注文を処理するハンドラー",
    "обработчик_заказов",
    "معالج_الطلبات",
    "naïve_e\u0301te\u0301",
    "🚚_livraison",
)
ERROR = (
    "ValueError: "
    + "the order has no lines and cannot be invoiced, " * 3
    + "see "
    + "https://x.example/"
    + "y" * 150
)

Print = Callable[[Sequence[str], Sequence[Sequence[object]]], list[str]]


@pytest.fixture(params=[80, 140])
def width(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def printed(width: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Print]:
    """Print a table on a terminal of this width, and return its lines."""
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")

    def lines(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
        with open(theirs, "w", encoding="utf-8", closefd=False) as terminal, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", terminal)
            print_table(columns, rows)
        written = b""
        with contextlib.suppress(BlockingIOError):
            while True:
                written += os.read(ours, 1 << 16)
        return written.decode().replace("\r\n", "\n").splitlines()

    yield lines
    os.close(ours)
    os.close(theirs)


def letters(text: str) -> str:
    return "".join(text.split())


def test_each_line_fits_and_nothing_is_lost(width: int, printed: Print) -> None:
    columns = ("HANDLER", "EVENTS", "STATE", "NOTE")
    for name in (*SCRIPTS, NAME, "a" * 255):
        rows = [(name, f"{name}.created {name}.paid", "dead", ERROR), ("short", "order.*", "succeeded", None)]
        lines = printed(columns, rows)
        assert max(map(cell_len, lines)) <= width, (name, lines)
        text = letters("".join(lines))
        words = ["theorder", "invoiced", "short", "order.*", *(name.split("_") if len(name) < width else ())]
        assert [word for word in words if letters(word) not in text] == [], (name, lines)
        assert text.count("y") >= 150  # a word that is longer than the line is broken, and whole


def test_a_wide_terminal_has_a_table_where_a_narrow_one_has_blocks(width: int, printed: Print) -> None:
    rows = [(NAME, "order.created", "succeeded", "it waits for a worker and was changed over HTTP")]
    first, *rest = printed(("HANDLER", "EVENTS", "STATE", "NOTE"), rows)
    if width == 140:
        assert first.split() == ["HANDLER", "EVENTS", "STATE", "NOTE"]
        assert len(rest) == 1
    else:
        assert (first, len(rest)) == (NAME, 2)


def test_wide_columns_wrap_between_words_before_a_table_becomes_blocks(width: int, printed: Print) -> None:
    types = " ".join(f"shop.order.number{n}" for n in range(12))
    lines = printed(
        ("HANDLER", "EVENTS", "RUNS", "NOTE"), [("price", types, "3 succeeded, 1 dead", ERROR[:100])]
    )
    assert lines[0].split() == ["HANDLER", "EVENTS", "RUNS", "NOTE"]
    assert max(map(cell_len, lines)) <= width
    assert all(f"shop.order.number{n}" in "\n".join(lines) for n in range(12))
    assert sum(map(cell_len, lines)) > 0.5 * width * len(lines)


def test_without_a_terminal_each_row_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("HANDLER", "NOTE"), [(SCRIPTS[0], ERROR), ("two\nlines\x1b[31m", "")])
    print_fields([("name", NAME * 3), ("none", None)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == f"{SCRIPTS[0]}  {ERROR}"
    assert lines[2].split() == ["two", "lines", "[31m", "-"]
    assert lines[3].split() == ["name", NAME * 3]
