"""The public JSON shapes, each defined once as a msgspec type.

The gateway checks requests against these types, encodes its answers from them, and builds its OpenAPI and
AsyncAPI documents from them. The clients decode into them. This package imports only msgspec and
`busway.domain`.

Shapes that a client sends refuse unknown fields and check their values. Shapes that the gateway sends accept
unknown fields. Those that clients decode (items, receipts, frames) check no values either: their enumerations
are only in the schema. So a client can read the messages of a newer gateway.
"""
