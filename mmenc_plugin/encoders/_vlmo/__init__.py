"""VLMo: the multiway transformer of Bao et al. 2022, its heads, its checkpoints and its vocabulary.

Bao et al. 2022, "VLMo: Unified Vision-Language Pre-Training with Mixture-of-Modality-Experts",
arXiv 2111.02358. Written from the paper and from the published sizes; parameters bear the names that
the published checkpoints give them.
"""

from mmenc_plugin.encoders._vlmo.config import VlmoConfig, architecture
from mmenc_plugin.encoders._vlmo.network import Contrast, Vlmo

__all__ = ["Contrast", "Vlmo", "VlmoConfig", "architecture"]
