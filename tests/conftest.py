"""Fixtures of all tests."""

import json
import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a network; must be set before huggingface_hub is imported

import numpy as np
import pytest
import torch
from PIL import Image

from mmenc_plugin.types import ItemTable

torch.set_num_threads(1)  # what the tests compute is too small to share out


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    """RecBole's Config reads the arguments of whatever program runs, pytest's too."""
    monkeypatch.setattr("sys.argv", ["pytest"])


@pytest.fixture
def make_items(tmp_path):
    """make_items(n): a table of n items with texts and drawn pictures, the pictures in tmp_path/images."""

    def make(n, image_dir=tmp_path / "images"):
        image_dir.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        for k in range(n):
            pixels = rng.integers(0, 80, (16 + k % 3, 20, 3)) + rng.integers(0, 170, 3)
            Image.fromarray(pixels.astype(np.uint8)).save(image_dir / f"{k}.png")
        texts = [" ".join([f"thing number {k}", *["word"] * (k % 5)]) for k in range(n)]
        return ItemTable([f"i{k}" for k in range(n)], texts, [f"{k}.png" for k in range(n)], image_dir)

    return make


@pytest.fixture
def python():
    """python(code, *arguments, **environment): run a piece of Python in a process of its own."""

    def run(code, *arguments, **environment):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120, check=False
        )

    return run


TINY_CLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A folder for openclip:local-dir:, with random weights and a preprocessing of its own."""
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()
    import open_clip
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("tiny_clip")
    config = {"model_cfg": TINY_CLIP, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    save_file(open_clip.create_model(f"local-dir:{folder}").state_dict(), folder / "open_clip_model.safetensors")
    return folder


_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
LETTERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shoe", *_SIGNS, *(f"##{c}" for c in _SIGNS)]


@pytest.fixture(scope="session")
def tiny_sbert(tmp_path_factory):
    """A folder for sbert:, a BERT of two layers with random weights and a vocabulary of letters."""
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert, folder = tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("tiny_sbert")
    torch.manual_seed(1)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(LETTERS), max_position_embeddings=32, **sizes)).save_pretrained(bert)
    BertTokenizerFast(vocab={word: row for row, word in enumerate(LETTERS)}).save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=24), Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))
    return folder


@pytest.fixture(scope="session")
def tiny_vlmo(tmp_path_factory):
    """A folder for vlmo:, of three blocks with random weights and a vocabulary of letters."""
    from mmenc_plugin.encoders._vlmo import Vlmo, VlmoConfig, folder
    from mmenc_plugin.encoders._vlmo.vocabulary import WordPieces

    path = tmp_path_factory.mktemp("tiny_vlmo")
    (path / "vocab.txt").write_text("\n".join(LETTERS) + "\n")
    config = VlmoConfig(
        architecture="tiny",
        image_size=32,
        width=32,
        depth=3,
        heads=2,
        vl_start=2,
        positions="relative",
        layer_scale=True,
        vocabulary=len(LETTERS),
    )
    torch.manual_seed(1)
    network = Vlmo(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    folder.save(network, WordPieces(path / "vocab.txt", len(LETTERS), config.max_tokens), path)
    return path
