"""Record what MMRec's own models compute, for the parity tests.

    python tests/parity/mmrec/record.py PATH_OF_A_CHECKOUT_OF_MMREC MODEL [MODEL ...]

Every model gets the same small data, one batch, and settings without chance (`OVERRIDES`); its parameters, its loss on
the batch and its scores of all users and items go to `<MODEL>.safetensors` beside this file, with the commit and the
settings in the file's metadata. What MMRec imports and does not need here is stubbed, and what stops it on today's
libraries or without a GPU is mended in memory; its checkout is not touched. MMGCN and GRCN need torch_geometric.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import yaml
from safetensors.torch import save_file

HERE = Path(__file__).parent
N_USERS, N_ITEMS = 20, 30
OVERRIDES: dict[str, dict[str, Any]] = {
    "FREEDOM": {"dropout": 0.0, "reg_weight": 0.1},
    "SLMRec": {"recdim": 8, "ssl_temp": 0.5, "ssl_alpha": 0.1},
    "BM3": {"n_layers": 2, "dropout": 0.0, "reg_weight": 0.1},
    "LGMRec": {"keep_rate": 1.0, "n_hyper_layer": 2, "cl_weight": 0.01, "reg_weight": 0.1},
    "LATTICE": {"reg_weight": 0.1, "train_batch_size": 40},
    "MGCN": {"cl_loss": 0.1, "reg_weight": 0.1, "train_batch_size": 40},
    "SMORE": {"image_knn_k": 5, "text_knn_k": 4, "cl_loss": 0.1, "reg_weight": 0.1, "train_batch_size": 40},
    "MMGCN": {"reg_weight": 0.0},
    "GRCN": {"reg_weight": 0.0, "latent_embedding": 6},
}


def make_inputs() -> dict[str, torch.Tensor]:
    """Training pairs, features and a batch: the same on every run."""
    g = torch.Generator().manual_seed(7)
    chance = torch.rand(N_USERS, N_ITEMS, generator=g)
    users, items = torch.nonzero(chance < 0.25, as_tuple=True)
    batch = torch.randperm(len(users), generator=g)[:40]
    negatives = torch.tensor([int(torch.nonzero(chance[u] >= 0.25)[i % 5]) for i, u in enumerate(users[batch])])
    return {
        "users": users, "items": items, "image": torch.randn(N_ITEMS, 16, generator=g),
        "text": torch.randn(N_ITEMS, 12, generator=g), "batch_users": users[batch], "batch_positives": items[batch],
        "batch_negatives": negatives,
    }  # fmt: skip


class Data:
    """As much of MMRec's loader as its models ask for."""

    def __init__(self, inputs: dict[str, torch.Tensor]) -> None:
        self.dataset, self.inputs = self, inputs

    def get_user_num(self) -> int:
        return N_USERS

    def get_item_num(self) -> int:
        return N_ITEMS

    def inter_matrix(self, form: str = "coo", value_field: Any = None) -> Any:
        users, items = self.inputs["users"].numpy(), self.inputs["items"].numpy()
        ones = np.ones(len(users), dtype=np.float32)
        return sp.coo_matrix((ones, (users, items)), shape=(N_USERS, N_ITEMS)).asformat(form)


def mend() -> None:
    """Mend what stops MMRec here (unused packages, `.cuda()` on a machine without, names that are gone), and noise."""
    for name in ("torch_scatter", "lmdb", "sparsesvd", "sklearn.cluster", "utils.data_utils"):
        if name not in sys.modules:
            sys.modules[name] = types.ModuleType(name)
    sys.modules["torch_scatter"].scatter = sys.modules["sklearn.cluster"].KMeans = None
    sys.modules["torch_scatter"].scatter_add = lambda values, index, dim, dim_size: torch.zeros(dim_size).index_add_(
        0, index, values
    )
    torch.nn.functional.gumbel_softmax = lambda logits, tau, hard, dim: (logits / tau).softmax(dim)
    torch.Tensor.cuda = lambda self, *args, **kwargs: self
    sp.dok_matrix._update = lambda self, other: self._dict.update(other)


def narrow_mmgcn(module: Any, width: int = 14) -> None:
    """Its graph of pictures is 256 wide, wherever it stands: here 14, less than our pictures' 16, or as told."""
    make = module.GCN.__init__

    def narrow(self: Any, *args: Any, dim_latent: int | None = None, **kwargs: Any) -> None:
        make(self, *args, dim_latent=dim_latent and width, **kwargs)

    module.GCN.__init__ = narrow


def tensors_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The parameters, and what was meant to be one but is a plain tensor."""
    named = dict(network.state_dict())
    for prefix, module in network.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                named[f"{prefix}.{name}".lstrip(".")] = value
    return named


class Settings(dict[str, Any]):
    """A key that is missing is None, as in MMRec's Config."""

    def __missing__(self, key: str) -> None:
        return None


def config_of(model: str, checkout: Path, folder: str) -> Settings:
    """MMRec's settings of the model, the first of each list, with ours over them."""
    files = [checkout / "src/configs/overall.yaml", checkout / "src/configs/model" / f"{model}.yaml"]
    merged = Settings()
    for file in files:
        merged.update(yaml.safe_load(file.read_text()))
    for key in merged.pop("hyper_parameters", []):
        if isinstance(merged.get(key), list):
            merged[key] = merged[key][0]
    merged.update(
        embedding_size=8, feat_embed_dim=8, knn_k=5, device=torch.device("cpu"), data_path=folder, dataset="",
        vision_feature_file="image.npy", text_feature_file="text.npy", user_graph_dict_file="",
    )  # fmt: skip
    merged.update(OVERRIDES[model])
    return merged


def record(model: str, checkout: Path) -> None:
    """Run one model and write its file."""
    inputs = make_inputs()
    with tempfile.TemporaryDirectory() as folder:
        for modality in ("image", "text"):
            np.save(f"{folder}/{modality}.npy", inputs[modality].numpy())
        config = config_of(model, checkout, f"{folder}/")
        torch.manual_seed(0)
        module = importlib.import_module(f"models.{model.lower()}")
        if model == "MMGCN":
            narrow_mmgcn(module)
        network = getattr(module, model)(config, Data(inputs))
    batch = torch.stack([inputs[f"batch_{part}"] for part in ("users", "positives", "negatives")])
    network.pre_epoch_processing()
    parameters = {f"parameter:{name}": p.detach().clone() for name, p in tensors_of(network).items() if not p.is_sparse}
    loss = network.calculate_loss(batch).detach().reshape(())
    network.eval()
    with torch.no_grad():
        scores = network.full_sort_predict([torch.arange(N_USERS)])
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    settings = {key: value for key, value in config.items() if isinstance(value, (int, float, str, bool, list))}
    settings.pop("data_path")
    metadata = {"commit": commit.stdout.strip(), "settings": json.dumps(settings, sort_keys=True)}
    tensors = parameters | {"loss": loss, "scores": scores.reshape(N_USERS, N_ITEMS)}
    save_file({name: t.contiguous().clone() for name, t in tensors.items()}, HERE / f"{model}.safetensors", metadata)
    save_file(inputs, HERE / "inputs.safetensors")
    print(f"{model}: loss {float(loss):.6f}, {len(parameters)} parameters")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("models", nargs="+", choices=sorted(OVERRIDES))
    args = parser.parse_args()
    mend()
    sys.path.insert(0, str(args.checkout / "src"))
    for model in args.models:
        record(model, args.checkout)


if __name__ == "__main__":
    main()
