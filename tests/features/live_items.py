"""Nine items whose features are live, and the gradients of models that read them."""

import torch

from mmenc_plugin import encoders, models
from mmenc_plugin.features import align, extract
from mmenc_plugin.features.align import arrange
from mmenc_plugin.features.live import LiveFeatures
from mmenc_plugin.features.live_encoding import LiveOptions
from mmenc_plugin.training import apply_tuning
from mmenc_plugin.types import Interactions, TripletBatch

N = 9


class Shop:
    def __init__(self, items, uri, store):
        self.items, self.uri, self.store = items, uri, store
        self.tokens = items.ids[::-1]
        users, taken = [1, 1, 1, 2, 2, 3, 3, 3, 4], [1, 2, 3, 3, 4, 5, 7, 8, 1]
        self.interactions = Interactions(torch.tensor(users), torch.tensor(taken), 5, N + 1, padding_row=True)

    def tables(self, encoder, modalities, **options):
        blocks = {m: extract(self.items, encoder, m, self.store, show_progress=False) for m in modalities}
        return {m: align(block, self.tokens, padding_row=True, **options) for m, block in blocks.items()}

    def live(self, modalities=("image", "text"), tune="full", encoder=None, **options):
        encoder = encoder or encoders.build(self.uri)
        tables = self.tables(encoder, modalities)
        apply_tuning(encoder, tune, modalities)
        options = LiveOptions(padding_row=True, batch_size=options.pop("batch_size", 3), **options)
        pairs = self.interactions.users, self.interactions.items
        items = arrange(self.items, self.tokens, padding_row=True)
        return LiveFeatures(items, tables, dict.fromkeys(modalities, encoder), self.store, options, pairs)

    def batch(self):
        return TripletBatch(torch.tensor([1, 2, 3]), torch.tensor([2, 3, 8]), torch.tensor([6, 2, 1]))


def gradients(model, live, batch, seed=1):
    torch.manual_seed(seed)
    model.train()
    model.begin_epoch()
    torch.manual_seed(seed)
    loss = torch.stack(list(model.loss(batch).values())).sum()
    parameters = list(live.trained().values())
    return loss, torch.autograd.grad(loss, parameters, allow_unused=True)


def build(name, shop, features, **settings):
    torch.manual_seed(0)
    model = models.build(name, {"embedding_size": 4, **settings}, features, shop.interactions).double()
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if not any(parameter is p for p in features.parameters()):
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model
