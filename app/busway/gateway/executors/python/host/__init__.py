"""The gateway's side of the workers: supervisor, generations, pools, and one object for each worker."""
