"""A wall clock that jumps an hour each way, for the gateway and all its children.

The clock is moved below Python's `time`: a `sitecustomize` that the whole family imports adds an offset,
read from a page of shared memory, to `time.time()` and `time.time_ns()`; monotonic clocks go on as they do.
"""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tests.marks import few

from .house import Bystanders, House, until

pytestmark = pytest.mark.fault
HOUR = 3600

CLOCK = """
import mmap, os, struct, time
_file = os.open({path!r}, os.O_RDONLY)
_page = mmap.mmap(_file, 8, prot=mmap.PROT_READ)
os.close(_file)
_time, _time_ns = time.time, time.time_ns
time.time = lambda: _time() + struct.unpack("q", _page[:])[0]
time.time_ns = lambda: _time_ns() + struct.unpack("q", _page[:])[0] * 1_000_000_000
"""


class Clock:
    """What the family under it takes for the time of day."""

    def __init__(self, folder: Path) -> None:
        self._page = folder / "offset"
        self._move(0)
        (folder / "clock").mkdir()
        source = CLOCK.format(path=str(self._page))
        (folder / "clock" / "sitecustomize.py").write_text(source)
        self.environment = {"PYTHONPATH": str(folder / "clock")}

    def _move(self, offset: int) -> None:
        with self._page.open("r+b" if self._page.exists() else "wb") as file:
            file.write(struct.pack("q", offset))

    def jump(self, offset: int) -> None:
        """Be so many seconds off from now on."""
        self._move(offset)


@pytest.mark.parametrize("own_house", few(["process", "thread"], "process"), indirect=True)
@pytest.mark.long
def test_a_wall_clock_that_jumps_harms_nobody(own_house: House, tmp_path: Path) -> None:
    house, clock = own_house, Clock(tmp_path)
    house.environment = clock.environment
    house.start()
    house.settle_in()
    before = house.census()
    for number, offset in enumerate((HOUR, 0, -HOUR, 0)):
        bystanders = Bystanders(house)
        sign = tmp_path / f"sign{number}"
        running = house.begin("waits_for", str(sign))
        receipts = house.ok("POST", "/v1/events", [{"type": "faulty.fails_once"}] * 5)["items"]
        waiting = [receipt["seq"] for receipt in receipts]
        stamped = house.publish("faulty.fine")["seq"]
        until(lambda waiting=waiting: all(map(house.failed_once, waiting)), "their first attempts")
        clock.jump(offset)
        sign.touch()
        assert house.end(running)["state"] == "succeeded", "a timeout goes by the monotonic clock"
        for seq in waiting:
            run = house.run_of(seq)
            assert (run["state"], run["attempt"]) == ("succeeded", 2), "its backoff goes by it too"
        assert house.finished(stamped)["runs"][0]["state"] == "succeeded"
        for _ in range(3):
            assert house.run("fine", 1)["state"] == "succeeded"
        bystanders.finish()
    house.comes_back_to(before)
    log = house.results()
    assert [int(item["cursor"].split("-")[1]) for item in log] == list(range(1, len(log) + 1))
    assert all(
        attempt["wall_time"] < HOUR / 2
        for run in house.runs(handler="waits_for")
        for attempt in house.ok("GET", f"/v1/runs/{run['id']}")["attempts"]
    )
    assert house.stop() == 0
