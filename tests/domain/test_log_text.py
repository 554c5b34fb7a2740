"""How log records look for people: tracebacks without frames of libraries, no control characters."""

from __future__ import annotations

import logging
import sysconfig
import traceback

import pytest
from busway.gateway.logs import JsonFormatter, TextFormatter, collapsed, plain

LIBRARY = "/env/lib/python3.13/site-packages"


def frame(path: str, name: str) -> str:
    return f'  File "{path}", line 7, in {name}\n    {name}()\n    ~~~~^^\n'


USER, MORE = frame("/shop/handlers/jobs.py", "pay"), frame("/shop/app/bank.py", "call")
HTTPX = [frame(f"{LIBRARY}/httpx/_{n}.py", f"h{n}") for n in range(3)]
CORE = [frame(f"{LIBRARY}/httpcore/_{n}.py", f"c{n}") for n in range(3)]
STANDARD = frame(sysconfig.get_path("stdlib") + "/json/decoder.py", "decode")
HEAD, LAST = "Traceback (most recent call last):\n", "ValueError: no\n"


@pytest.mark.parametrize(
    ("frames", "left"),
    [
        ([USER, MORE], [USER, MORE]),
        ([USER, *HTTPX[:2]], [USER, *HTTPX[:2]]),
        ([USER, *HTTPX, *CORE], [USER, "  … 5 frames of httpx, httpcore …\n", CORE[2]]),
        ([USER, *HTTPX, MORE], [USER, "  … 3 frames of httpx …\n", MORE]),
        ([USER, STANDARD, *CORE, MORE, STANDARD],
         [USER, "  … 4 frames of Python's library, httpcore …\n", MORE, STANDARD]),
        ([], []),
    ],
)  # fmt: skip
def test_frames_of_libraries_become_one_line(frames: list[str], left: list[str]) -> None:
    trace, short = HEAD + "".join(frames) + LAST, HEAD + "".join(left) + LAST
    assert collapsed(trace) == short
    assert collapsed(f"{trace}\nDuring handling\n\n{trace}") == f"{short}\nDuring handling\n\n{short}"


def test_what_is_no_traceback_stays() -> None:
    for text in ("", "one line", "  File no frame", "a\n\n  b\n", LAST):
        assert collapsed(text) == text
    trace = "".join(traceback.format_exception(ExceptionGroup("several", [ValueError("no")])))
    assert collapsed(trace) == trace


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain ü\n\ttext …", "plain ü\n\ttext …"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07x\x1b]8;;http://x\x1b\\link", "xlink"),
        ("\x1b[2J\x1b", "\\x1b"),
        ("a\rb\x00\x7f\x9b2J", "a\\rb\\x00\\x7f\\x9b2J"),
        ("\u202eabc\ud800", "\\u202eabc\\ud800"),
    ],
)
def test_control_characters_do_not_reach_a_terminal(text: str, shown: str) -> None:
    assert plain(text) == shown


def record(name: str = "busway", message: str = "said", **extra: object) -> logging.LogRecord:
    return logging.getLogger(name).makeRecord(
        name, logging.WARNING, __file__, 1, "%s", (message,), None, extra=extra
    )


def test_lines_have_time_level_and_where_they_are_from() -> None:
    formatter = TextFormatter(colors=False)
    assert formatter.format(record()).partition(" WARNING ")[2] == "said"
    output = record("busway.handlers", "WARNING shop: no\x07", handler="pay", run=3)
    assert formatter.format(output).endswith(" WARNING pay run 3 | shop: no\\x07")
    assert formatter.format(record("busway.handlers", handler="pay", run=0)).endswith(" pay test | said")
    assert formatter.format(record(traceback=HEAD + LAST)).endswith(
        " said\n    Traceback (most recent call last):\n    ValueError: no"
    )
    assert "\x1b[33mWARNING\x1b[0m said" in TextFormatter(colors=True).format(record())


def test_of_a_long_record_the_first_and_the_last_lines_are_shown() -> None:
    text = TextFormatter(colors=False).format(record(traceback="\n".join(map(str, range(100)))))
    lines = [line.strip() for line in text.splitlines()[1:]]
    assert lines == [*map(str, range(15)), "… 40 lines …", *map(str, range(55, 100))]


def test_json_holds_what_is_no_unicode() -> None:
    line = JsonFormatter().format(record(message="a\ud800\x1b", handler="pay"))
    assert line.startswith(r'{"event":"a\\ud800\u001b","level":"warning","logger":"busway",')
    assert '"handler":"pay"' in line
