"""Our models against MMRec's own: seconds of training and of evaluation, and memory; see `__main__.py`."""
