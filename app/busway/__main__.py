"""Run the `busway` command as `python -m busway`."""

from busway.gateway.cli import main

main()
