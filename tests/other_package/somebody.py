"""An encoder (one number: the length of the text) and a model (content alone), each one class."""

import torch
from torch import nn

from mmenc_plugin import encoders, models
from mmenc_plugin.models.blocks.losses import bpr
from mmenc_plugin.models.blocks.projection import ModalityProjection
from mmenc_plugin.types import Citation, Embeddings

NOBODY = Citation("Nothing", "Nobody", 2026, "https://example.org")


@encoders.register
class LengthEncoder(encoders.Encoder):
    """The length of a text."""

    family, modalities, example, citation = "length", frozenset({"text"}), "length", NOBODY

    def __init__(self):
        super().__init__()
        self.spec = encoders.EncoderSpec("length", "length", "none", "", {"text": 1}, {"text": {}})

    @classmethod
    def check(cls, rest):
        pass

    @classmethod
    def from_rest(cls, rest):
        return cls()

    def tokenize(self, texts):
        return {"length": torch.tensor([[float(len(t))] for t in texts])}

    def encode_text(self, tokens):
        return tokens["length"]


@models.register
class ContentOnly(models.MultimodalRecommender):
    """Score = theta_u . E f_i."""

    citation = NOBODY

    def __init__(self, settings, features, interactions):
        super().__init__(settings, features, interactions)
        self.user = nn.Embedding(self.n_users, settings.embedding_size)
        self.projection = ModalityProjection(features, settings.embedding_size)

    def embed(self):
        return Embeddings(self.user.weight, self.projection(self.features))

    def loss(self, batch):
        return {"bpr": bpr(self.embed(), batch)}
