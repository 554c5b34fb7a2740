"""Parts of addresses."""

from __future__ import annotations

from starlette.convertors import Convertor, register_url_convertor

NUMBER = "number"
"""The name of a part that is a number: `/retry` is no run, so that a method it does not have is a 405."""


class _Number(Convertor[str]):
    regex = "[0-9]{1,19}"

    def convert(self, value: str) -> str:
        return value  # the route reads it

    def to_string(self, value: str) -> str:
        return value


register_url_convertor(NUMBER, _Number())
