"""Fixtures of all tests."""

import os
import subprocess
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a network; must be set before huggingface_hub is imported

import checkpoints
import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image

from mmenc_plugin.types import ItemTable

if not torch.cuda.is_available():  # Triton reads it where a kernel is defined
    os.environ.setdefault("TRITON_INTERPRET", "1")
torch.set_num_threads(1)  # what the tests compute is too small to share out


hypothesis.settings.register_profile("repeatable", derandomize=True)  # a failure is there on the next run, too
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def _same_numbers():
    """Every test draws the same random numbers and computes alike, whatever ran before it in its process."""
    torch.manual_seed(0)
    torch.autograd.set_detect_anomaly(False)  # RecBole's SINE switches it on as it is imported, for all that follows


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


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A folder for openclip:local-dir:, with random weights and a preprocessing of its own."""
    return checkpoints.openclip(tmp_path_factory.mktemp("tiny_clip"))


@pytest.fixture(scope="session")
def tiny_sbert(tmp_path_factory):
    """A folder for sbert:, a BERT of two layers with random weights and a vocabulary of letters."""
    return checkpoints.sbert(tmp_path_factory.mktemp("tiny_sbert"))


@pytest.fixture(scope="session")
def tiny_vlmo(tmp_path_factory):
    """A folder for vlmo:, of three blocks with random weights and a vocabulary of letters."""
    return checkpoints.vlmo(tmp_path_factory.mktemp("tiny_vlmo"))


@pytest.fixture(scope="session", params=["clip", "siglip", "siglip2", "align"])
def tiny_hf(request, tmp_path_factory):
    """A folder for hf:, of each kind that the tests make."""
    return checkpoints.hf(request.param, tmp_path_factory.mktemp(f"tiny_{request.param}"))


@pytest.fixture(scope="session")
def tiny_hf_clip(tmp_path_factory):
    """A folder for hf:, a CLIP of transformers."""
    return checkpoints.hf("clip", tmp_path_factory.mktemp("tiny_hf_clip"))
