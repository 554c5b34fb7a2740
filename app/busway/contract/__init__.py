"""Every public JSON shape, written once as a msgspec type.

The gateway checks requests against these types, encodes its answers from them and builds its OpenAPI and
AsyncAPI documents from them; the clients decode into them. They need msgspec and `busway.domain` alone.

Shapes that a client sends refuse unknown fields and check their values. Shapes that the gateway sends do not
refuse unknown fields, and those that clients decode (items, receipts, frames) check no values either: their
enumerations stand in the schema only. So a client understands a newer gateway.
"""
