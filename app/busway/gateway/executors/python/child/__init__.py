"""The programs that import handler code: the zygote and the workers."""
