"""Log lines of one place are limited a second; what is left out is counted, and said with the next line."""

import logging

from busway.gateway.log_limit import MOST, LogLimit


class Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.now = 5.0
        self.limit = LogLimit(lambda: self.now)
        self.addFilter(self.limit)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def test_one_place_has_so_many_lines_a_second_and_another_its_own() -> None:
    lines, log = Lines(), logging.Logger("a")
    log.addHandler(lines)
    for n in range(100):
        log.warning("line %d", n)
    log.warning("other")
    assert lines.lines == [*(f"line {n}" for n in range(MOST)), "other"]
    assert lines.limit.left_out == 100 - MOST


def test_the_next_line_says_how_many_were_left_out() -> None:
    lines, log = Lines(), logging.Logger("a")
    log.addHandler(lines)
    for second in range(3):
        for n in range(MOST + 5 * second):
            log.warning("%d%%", n)
        lines.now += 1
    assert len(lines.lines) == 3 * MOST
    assert lines.lines[MOST] == lines.lines[0] == "0%"
    assert lines.lines[2 * MOST] == "0% (and 5 more lines like this one before)"
    assert lines.limit.left_out == 15
