"""Retries: the first two attempts fail, the third one succeeds. A parcel to Svalbard waits for a day.

Publish: busway publish parcel.sent --data '{"to": "Oslo"}'
Look:    GET /v1/runs?handler=book_carrier, then GET /v1/runs/{id} for its attempts
"""

from busway import Context, Event, Retry, handler


@handler("parcel.sent", max_attempts=4, backoff={"initial": 0.5, "factor": 2})
def book_carrier(event: Event, ctx: Context) -> dict[str, object]:
    """Book a carrier. It does not answer the first attempt, and is busy at the second one."""
    ctx.log.info("attempt %d for a parcel to %s", ctx.attempt, event.data["to"])
    if event.data["to"] == "Svalbard":
        raise Retry(after=86_400, reason="the ship to Svalbard leaves tomorrow")
    if ctx.attempt == 1:
        raise ConnectionError("the carrier does not answer")
    if ctx.attempt == 2:
        raise Retry(after=1, reason="the carrier is busy")
    return {"booked": event.data["to"], "attempts": ctx.attempt}
