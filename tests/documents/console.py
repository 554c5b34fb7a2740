"""Follow a page as a reader does: write the files that it shows, type its commands, compare what they print.

A block with the language `console` has commands after `$ ` and their output. `…` stands for any text, alone
in its line for any number of lines. Commands that do not end, `busway serve` and `busway tail`, go on in
terminals of their own; later blocks `console serve` and `console tail` show what these print next. A block
that begins with `# path` is a file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tests.e2e.service import PATIENCE

_BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (\S+/\S+|\S+\.(?:py|toml|txt))\n")
_ENDLESS = re.compile(r"busway (serve|tail)\b")
_MARKS = re.compile(r" +[~^]+")
_STYLE = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
_ANY = {
    r"\d\d:\d\d:\d\d(?:\.\d+)?": r"\d\d:\d\d:\d\d(?:\.\d+)?",
    r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f-]{17}": r"[0-9a-f-]{36}",
    r"\d{4}-\d\d-\d\d": r"\d{4}-\d\d-\d\d",
    r"\b\d+(?:\.\d+)? m?s\b": r"\d+(?:\.\d+)? m?s",
}
"""What differs from run to run: times, ids, dates, durations."""
_ANY_LINES = r"(?:.*\n)*?"
_SPLIT = re.compile("(" + "|".join(["…", *_ANY]) + ")")


class Block(NamedTuple):
    """A block of a page: its language, the terminal that it names, and its text."""

    language: str
    terminal: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page."""
    found = _BLOCK.findall(page.read_text(encoding="utf-8"))
    return [Block(language, terminal, text) for language, terminal, text in found]


def pattern(line: str) -> re.Pattern[str]:
    """Return what a printed line must match."""
    parts = []
    for part in _SPLIT.split(line.rstrip()):
        wide = next((wide for narrow, wide in _ANY.items() if re.fullmatch(narrow, part)), None)
        parts.append(".*" if part == "…" else wide or re.escape(part))
    return re.compile("".join(parts))


def without_marks(lines: list[str]) -> list[str]:
    """Remove the lines of tracebacks that mark a place, which each version of Python does in its own way."""
    return [line for line in lines if not _MARKS.fullmatch(line.rstrip())]


class Terminal:
    """A command in a terminal of 80 columns."""

    def __init__(self, command: str, cwd: Path, environment: Mapping[str, str]) -> None:
        self.command, self.text, self._shown = command, "", 0
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.process = subprocess.Popen(
            ["bash", "-c", f"exec {command}" if _ENDLESS.match(command) else command],
            cwd=cwd, env={**environment, "TERM": "dumb", "COLUMNS": "80"},
            stdin=its, stdout=its, stderr=its, start_new_session=True,
        )  # fmt: skip
        os.close(its)

    def read(self, seconds: float) -> bool:
        """Read what it prints. Return False once it prints no more."""
        if not select.select([self._ours], [], [], seconds)[0]:
            return True
        try:
            chunk = os.read(self._ours, 65_536)
        except OSError:
            chunk = b""
        self.text += _STYLE.sub("", chunk.decode(errors="replace").replace("\r\n", "\n"))
        return bool(chunk)

    def shows(self, lines: list[str]) -> None:
        """Wait until it has printed these lines, behind those that were asked for before."""
        deadline = time.monotonic() + PATIENCE
        while not self._take(lines):
            more = self.read(0.1) and time.monotonic() < deadline
            assert more or self._take(lines), f"{self.command} printed\n{self.text}\ninstead of\n{lines}"

    def _take(self, lines: list[str]) -> bool:
        """Find the lines in order. Other lines may stand between them."""
        printed = without_marks(self.text.splitlines(keepends=True))
        at = self._shown
        for line in lines:
            wanted = pattern(line)
            while at < len(printed) and not wanted.fullmatch(printed[at].rstrip()):
                at += 1
            if at == len(printed) or not printed[at].endswith("\n"):
                return False
            at += 1
        self._shown = at
        return True

    def ends(self) -> list[str]:
        """Wait for its end and return the lines that it printed."""
        deadline = time.monotonic() + PATIENCE
        while self.read(0.1):
            assert time.monotonic() < deadline, f"{self.command} has not ended: {self.text}"
        self.process.wait(PATIENCE)
        return without_marks([line.rstrip() for line in self.text.rstrip().splitlines()])

    def interrupt(self) -> int:
        """Press Ctrl-C and return the exit status."""
        self.process.send_signal(signal.SIGINT)
        while self.read(0.1):
            continue
        return self.process.wait(PATIENCE)

    def close(self) -> None:
        """End it."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE)
        os.close(self._ours)


class Reader:
    """Follows a page in a folder.

    Args:
        folder: where the commands run.
        environment: their variables.
        url: the address of the gateway, which the page calls http://127.0.0.1:8000.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], url: str) -> None:
        self.folder, self._environment, self._url = folder, environment, url
        self.terminals: dict[str, Terminal] = {}

    def follow(self, block: Block) -> None:
        """Write the file that a block shows, or run its commands."""
        file = _FILE.match(block.text)
        if file:
            path = self.folder / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self._here(block.text[file.end() :]), encoding="utf-8")
        elif block.language == "console" and block.terminal:
            self.terminals[block.terminal].shows(self._local(block.text))
        elif block.language == "console":
            for each in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
                command, _, output = each.partition("\n")
                while command.endswith("\\"):
                    more, _, output = output.partition("\n")
                    command = f"{command}\n{more}"
                self._run(self._here(command), self._local(output))

    def _here(self, text: str) -> str:
        return text.replace("127.0.0.1:8000", self._url.removeprefix("http://"))

    def _local(self, text: str) -> list[str]:
        return without_marks(self._here(text).rstrip().splitlines())

    def _run(self, command: str, lines: list[str]) -> None:
        terminal = Terminal(command, self.folder, self._environment)
        endless = _ENDLESS.match(command)
        if endless:
            self.terminals[endless[1]] = terminal
            terminal.shows(lines)
            return
        try:
            printed = terminal.ends()
            whole = "".join(
                _ANY_LINES if line == "…" and number < len(lines) else r"[\s\S]*" if line == "…"
                else pattern(line).pattern + "\n" * (number < len(lines))
                for number, line in enumerate(lines, 1)
            )  # fmt: skip
            fits = re.fullmatch(whole, "\n".join(printed))
            assert fits, "\n".join([f"$ {command}", *printed, "--- instead of", *lines])
        finally:
            terminal.close()

    def close(self) -> None:
        """Close all terminals."""
        for terminal in self.terminals.values():
            terminal.close()
