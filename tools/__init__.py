"""Programs for the people who work on Busway. Nothing here is installed."""
