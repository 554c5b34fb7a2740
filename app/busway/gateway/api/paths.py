"""Converters for path parameters."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

NUMBER = "number"
"""The converter for numbers. `retry` does not match it, so a wrong method for /v1/runs/retry gives 405."""


class _Number(Convertor[str]):
    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> str:
        return value  # the route's parameter type converts it

    def to_string(self, value: str) -> str:
        return value


register_url_convertor(NUMBER, _Number())
