"""The fields `concurrency`, `rate` and `ordered`, wherever they are given."""

from __future__ import annotations

import pytest
from busway import handler
from busway.domain.handler import FieldError, check_fields, spec_of
from busway.gateway.dispatch.lanes import interval
from busway.handlers import declared

BAD = [
    *[("concurrency", value) for value in (0, -1, 100_001, 1.0, True, "1", [1])],
    *[("rate", value) for value in (1, "", "1", "0/s", "01/s", "1.5/s", "1/d", "1 /s", "1/S", "1/s\n", True)],
    *[("ordered", value) for value in (None, 0, 1, "true", [])],
    *[("memory", value) for value in (0, -1, 1.5, True, "64", [])],
    *[("filter", value) for value in ({}, [], "x", {"exact": {}}, {"exact": {"subject": 1}}, {"sql": "x"})],
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_bad_value_is_refused_by_name_over_http_and_in_code(name, value):
    with pytest.raises(FieldError) as refused:
        check_fields({name: value})
    assert refused.value.field == name
    with pytest.raises(ValueError, match=rf"@handler of f\(\): {name}: "):

        @handler("a", **{name: value})
        def f(event):
            pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("concurrency", None),
        ("concurrency", 1),
        ("concurrency", 100_000),
        ("rate", None),
        ("rate", "1/h"),
        ("rate", "999999999/s"),
        ("ordered", True),
        ("ordered", False),
        ("filter", None),
        ("filter", {"not": {"exact": {"data.n": 1}}}),
    ],
)
def test_a_good_value_is_in_force(name, value):
    @handler("a", **{name: value})
    def f(event):
        pass

    (fields,) = declared(f)
    assert getattr(spec_of({"target": "a:f", **fields}), name) == value


def test_fields_that_are_not_given_limit_nothing():
    spec = spec_of({"target": "a:b", "events": ["a"]})
    assert (spec.concurrency, spec.rate, spec.ordered, spec.filter) == (None, None, False, None)


def test_a_rate_is_an_interval():
    assert [interval(rate) for rate in ("100/s", "60/m", "1000/h")] == [0.01, 1.0, 3.6]
