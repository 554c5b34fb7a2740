"""`python -m app` is `busway`."""

from app.cli import main

main()
