"""Encoders by URI: `family:architecture/weights`.

A family is one module of this folder (or of another package, through the entry-point group
`mmenc.encoders`) with a class that `register`s itself.
"""

from mmenc_plugin.encoders._depths import Place, Tower
from mmenc_plugin.encoders._pictures import PictureRule
from mmenc_plugin.encoders._ready import ReadyFeatures, brings_features
from mmenc_plugin.encoders._weights import state_faults
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, build, check, register, registry

__all__ = [
    "Encoder",
    "EncoderSpec",
    "PictureRule",
    "Place",
    "ReadyFeatures",
    "Tower",
    "brings_features",
    "build",
    "check",
    "register",
    "registry",
    "state_faults",
]
