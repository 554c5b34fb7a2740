"""HTTP routes, one file a noun: parse, call one stage, answer."""
