"""A chain: each handler starts the next one with ctx.publish.

    order.created -> price -> order.priced -> invoice -> invoice.ready -> notify

Publish: busway publish order.created --data '{"item": "book", "quantity": 2}'
"""

from busway import Context, Event, Fail, handler

PRICES = {"book": 1250, "pen": 320, "lamp": 4900}  # cents


@handler("order.created")
def price(event: Event, ctx: Context) -> dict[str, int]:
    """Price an order."""
    item, quantity = event.data["item"], event.data["quantity"]
    if item not in PRICES:
        raise Fail(f"we do not sell {item!r}: choose one of {', '.join(PRICES)}")
    total = PRICES[item] * quantity
    ctx.publish("order.priced", {"item": item, "quantity": quantity, "total": total})
    return {"total": total}


@handler("order.priced")
def invoice(event: Event, ctx: Context) -> dict[str, int]:
    """Write the invoice of a priced order."""
    order = event.data
    lines = [f"{order['quantity']} x {order['item']}", f"total {order['total'] / 100:.2f}"]
    ctx.publish("invoice.ready", {"lines": lines}, subject=f"invoice-{ctx.run}")
    return {"lines": len(lines)}


@handler("invoice.ready")
def notify(event: Event) -> str:
    """Notify the customer. This is the end of the chain, so its result has `completes`."""
    return f"{event.subject}: {', '.join(event.data['lines'])}"
