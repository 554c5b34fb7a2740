"""The child processes that import handler code: the zygote and the workers."""
