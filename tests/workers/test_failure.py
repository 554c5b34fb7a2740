"""What is told of an exception whatever it does to hide itself."""

from __future__ import annotations

import pytest
from busway.gateway.executors.python.child.failure import describe


class Hides(Exception):
    """Its causes cannot be read, as those of a module that Python 3.15 imports again to suggest a name."""

    @property
    def __cause__(self):
        raise RuntimeError("no cause either")


class HidesAll(Hides):
    @property
    def __notes__(self):
        raise RuntimeError("no notes either")


def described(problem):
    try:
        raise problem  # noqa: TRY301 - it gets its frames here
    except Exception as raised:
        return describe(raised)


def test_the_frames_and_notes_are_told_though_the_causes_cannot_be():
    problem = Hides("the reason")
    problem.add_note("a note")
    error = described(problem)
    lines = error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert any("in described" in line for line in lines)
    assert lines[-2:] == ["Hides: the reason", "a note"]


@pytest.mark.parametrize("problem", [Hides("x"), HidesAll("x")])
def test_the_type_and_the_message_are_told_always(problem):
    error = described(problem)
    assert (error.type, error.message) == (type(problem).__name__, "x")
    assert error.traceback
