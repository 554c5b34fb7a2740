"""Pure values and rules: no I/O and no clock. Imports only the standard library and msgspec."""
