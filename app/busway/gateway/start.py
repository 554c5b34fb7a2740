"""The first lines of the busway program: signals, descriptors and streams, before the longer imports."""

from __future__ import annotations

import sys

from busway.gateway import signals


def main() -> None:
    """Run the command."""
    serves = sys.argv[1:2] == ["serve"]
    if serves:
        signals.stop.hold()
        signals.inherit_nothing()
    try:
        from busway.gateway import streams  # noqa: PLC0415 - signals hold while it is imported

        streams.open_descriptors()
        streams.install(streams.Queued if serves else streams.Direct)
        from busway.gateway import cli  # noqa: PLC0415 - as above
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main()
