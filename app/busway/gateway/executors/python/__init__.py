"""Python handlers: the gateway's side (host), the workers' side (child) and what both share (wire)."""
