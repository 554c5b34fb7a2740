"""Run the `busway` command as `python -m busway`."""

from busway.gateway.start import main

main()
