"""Traces with OpenTelemetry. Only `switch` is imported if the environment does not ask for them."""
