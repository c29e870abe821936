"""Time and memory of the kernels against the plain way and against their peers; see `__main__.py`."""
