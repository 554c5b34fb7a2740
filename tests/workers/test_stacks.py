"""Stacks that a child writes to its page."""

import asyncio
import os

import pytest
from busway.gateway.executors.python.host.stacks import when_written
from busway.gateway.executors.python.wire import slots

BROKEN_OFF = b"<freed thread state>\n"
WHOLE = b'Current thread 0x01 (most recent call first):\n  File "a.py", line 1 in f\n'


@pytest.mark.parametrize("times", range(3))
def test_stacks_that_are_broken_off_are_asked_for_again(times):
    async def main():
        page = slots.Page(slots.create(1), 1)
        answers, done = [BROKEN_OFF] * times + [WHOLE], asyncio.Event()
        when_written(
            asyncio.get_running_loop(), page, lambda: os.write(page.descriptor, answers.pop(0)), done.set
        )
        await asyncio.wait_for(done.wait(), 60)
        assert answers == []
        assert page.dumped() == (BROKEN_OFF * times + WHOLE).decode()
        page.close()

    asyncio.run(main())
