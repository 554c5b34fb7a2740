"""The gateway's side of the workers: supervisor, pools, one object for each worker."""
