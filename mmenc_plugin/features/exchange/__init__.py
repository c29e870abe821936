"""Features in other toolkits' files: blocks written for them, and their files read back through `npy:`.

A format is one module of this folder (or of another package, through the entry-point group
`mmenc.exchange`) with a class that `register`s itself.
"""

from mmenc_plugin.features.exchange.base import Format, Rows, Written, export, register, registry, uri_of

__all__ = ["Format", "Rows", "Written", "export", "register", "registry", "uri_of"]
