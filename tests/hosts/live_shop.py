"""A shop of pictures and texts, small enough for encoders to be trained in a test."""

import numpy as np
from PIL import Image

N_ITEMS, N_USERS = 16, 12
SETTINGS = {
    "paradigm": "end_to_end", "item_text": ["title"], "metrics": ["Recall"], "topk": [3], "valid_metric": "Recall@3",
    "embedding_size": 4, "train_batch_size": 16, "epochs": 2, "show_progress": False, "state": "ERROR",
    "encoder_learning_rate": 1e-3, "warmup": 0.0, "encoder_batch_size": 8, "encoder_workers": 1, "learning_rate": 0.01,
}  # fmt: skip


def make(folder):
    """A data set in folder/tiny: items of two colours, and users who take one of them; item 3 has no picture."""
    shop = folder / "tiny"
    (shop / "images").mkdir(parents=True)
    rng, rows, pairs = np.random.default_rng(0), ["item_id:token\ttitle:token_seq\timage:token"], []
    for item in range(N_ITEMS):
        pixels = rng.integers(0, 120, (32, 32, 3))
        pixels[..., item % 2] += 120
        Image.fromarray(pixels.astype(np.uint8)).save(shop / "images" / f"{item}.png")
        rows.append(f"i{item}\tthing {item % 2} number {item}\t{'' if item == 3 else f'{item}.png'}")
    for user in range(N_USERS):
        taken = rng.permutation(np.arange(user % 2, N_ITEMS, 2))[:6]
        pairs += [f"u{user}\ti{item}" for item in taken]
    (shop / "tiny.item").write_text("\n".join(rows) + "\n")
    (shop / "tiny.inter").write_text("\n".join(["user_id:token\titem_id:token", *pairs]) + "\n")
    return {"data_path": str(folder), "checkpoint_dir": str(folder / "saved"), "feature_dir": str(folder / "features")}


def prepare(settings, model="VBPR"):
    """What RecBole's run_recbole prepares: the trainer, and the three loaders."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_logger, init_seed

    config = Config(model, "tiny", config_dict={**SETTINGS, **settings})
    init_seed(config["seed"], config["reproducibility"])
    init_logger(config)
    loaders = data_preparation(config, create_dataset(config))
    init_seed(config["seed"], config["reproducibility"])
    built = get_model(model)(config, loaders[0]._dataset).to(config["device"])
    return get_trainer(config["MODEL_TYPE"], model)(config, built), *loaders


def trained(trainer):
    """A copy of what is trained, of the encoder and of the recommender."""
    live = trainer.model.model.features.trained()
    encoder = {name: value.detach().clone() for name, value in live.items()}
    others = trainer.model.model.named_parameters()
    rest = {name: value.detach().clone() for name, value in others if not name.startswith("features.")}
    return encoder, rest
