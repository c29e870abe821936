"""The recommenders. One file a model; another package adds its own through the entry points `mmenc.models`."""

from mmenc_plugin.models.base import ModelSettings, MultimodalRecommender, build, check_live, register, registry

__all__ = ["ModelSettings", "MultimodalRecommender", "build", "check_live", "register", "registry"]
