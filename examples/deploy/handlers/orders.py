"""A handler of the container: it greets a customer."""

from __future__ import annotations

from typing import Any

from busway import Event, handler


@handler("order.created")
def greet(event: Event[Any]) -> str:
    """Return a greeting."""
    return f"Thank you, {event.data['customer']}!"
