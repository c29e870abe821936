"""One of several processes: gradients of a step of VLMo in float64, then a whole fine-tuning; one of them writes.

Arguments: folder of the checkpoint, folder for everything else.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from shapes import make_shapes

from mmenc_plugin import encoders
from mmenc_plugin.features.pictures import PictureOptions
from mmenc_plugin.settings import FinetuneSettings, TuningSettings
from mmenc_plugin.training.bought import Bought
from mmenc_plugin.training.finetune import finetune
from mmenc_plugin.training.networks import network_of
from mmenc_plugin.training.pairs import read_pairs
from mmenc_plugin.training.step import Batch, Step
from mmenc_plugin.training.task import Task
from mmenc_plugin.training.team import Team

OBJECTIVES = ["itc", "itm", "mlm", "bought"]
USERS, TAKEN = [0, 0, 1, 1, 2, 2, 2], ["i0", "i3", "i3", "i8", "i1", "i2", "i10"]


def step_of(encoder, items, store, team, chunk):
    """A step on items, and a batch of all but two of them."""
    pairs = read_pairs(items, store)

    def take(numbers):
        return [encoder.prepare_file(items.image_dir / items.images[pairs.rows[n]]) for n in numbers]

    step = Step(network_of(encoder, OBJECTIVES), OBJECTIVES, chunk, pairs, Bought(pairs, USERS, TAKEN), team, take)
    numbers = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(5)).numpy()[:-2]
    return step, Batch(numbers, take(numbers[team.share(len(numbers))]), (7, 1, 2))


def main(checkpoint, folder):
    torch.set_num_threads(1)
    team = Team("cpu")
    encoder = encoders.build(f"vlmo:{checkpoint}").double()
    items = make_shapes(folder / f"shapes{team.rank}", 11)
    step, batch = step_of(encoder, items, folder / "store", team, 2)
    losses = step(batch, learns=True)
    team.sum_gradients(encoder.parameters())
    task = Task(
        make_shapes(folder / f"more{team.rank}", 24), f"vlmo:{checkpoint}",
        FinetuneSettings(finetune_objectives=["itc", "itm", "mlm"], finetune_epochs=2, finetune_batch_size=9,
                         finetune_validation=0.25, finetune_chunk=3),
        TuningSettings(encoder_learning_rate=1e-3), pictures=PictureOptions(1), store=folder / "store",
        show_progress=False,
    )  # fmt: skip
    result = finetune(task, folder / "finetuned")
    if team.speaks:
        gradients = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
        save_file(gradients, folder / "gradients.safetensors")
        (folder / "result.json").write_text(json.dumps([team.size, losses, result.report]))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
