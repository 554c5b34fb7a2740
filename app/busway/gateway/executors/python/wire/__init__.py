"""Shared by the gateway and the workers: frames, the shared memory page, child programs."""
