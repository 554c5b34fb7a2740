"""Pure values and rules: no I/O, no clock read; the standard library and msgspec only."""
