"""A step's gradients do not depend on chunks or processes, and its objectives ask what they should."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import team_script
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from shapes import make_shapes
from team_script import OBJECTIVES, step_of

from mmenc_plugin import encoders
from mmenc_plugin.errors import DataError
from mmenc_plugin.settings import FinetuneSettings
from mmenc_plugin.training.loop import Loop
from mmenc_plugin.training.networks import network_of
from mmenc_plugin.training.pairs import read_pairs
from mmenc_plugin.training.task import Task
from mmenc_plugin.training.team import Team
from mmenc_plugin.training.tuning import apply_tuning


@pytest.fixture
def items(tmp_path):
    return make_shapes(tmp_path / "shapes", 11)


@pytest.fixture
def vlmo(tiny_vlmo):
    return encoders.build(f"vlmo:{tiny_vlmo}").double()


def gradients(encoder):
    found = {name: p.grad for name, p in encoder.named_parameters() if p.grad is not None}
    encoder.zero_grad(set_to_none=True)
    return found


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-8, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}")


def test_chunks_change_nothing(vlmo, items, tmp_path):
    losses, found = {}, {}
    for chunk in (9, 2, 4):
        step, batch = step_of(vlmo, items, tmp_path, Team("cpu"), chunk)
        losses[chunk] = step(batch, learns=True)
        found[chunk] = gradients(vlmo)
    assert list(losses[9]) == ["itc", "bought", "itm", "mlm"]
    assert min(losses[9].values()) > 0.1
    assert len(found[9]) > 60
    assert sum(bool(g.abs().max() > 0) for g in found[9].values()) > 60
    for chunk in (2, 4):
        assert losses[chunk] == pytest.approx(losses[9], rel=1e-10)
        assert_equal(found[chunk], found[9])
    assert step(batch, learns=False) == pytest.approx(losses[9], rel=1e-10)
    assert not gradients(vlmo)


def test_the_contrast_is_the_plain_one_of_both_branches(vlmo, items, tmp_path):
    step, batch = step_of(vlmo, items, tmp_path, Team("cpu"), 3)
    step.objectives = {"itc"}
    loss = step(batch, learns=True)["itc"]
    found = gradients(vlmo)
    network, tokens = vlmo.network, vlmo.tokenize([step.pairs.text(pair) for pair in batch.pairs])
    images = network.image_contrast(vlmo.normalize(torch.stack(batch.pictures)).double())
    logits = network.contrast_logits(images, network.text_contrast(tokens["ids"], tokens["mask"]))
    own = torch.arange(len(batch.pairs))
    plain = sum(F.cross_entropy(x, own) + F.cross_entropy(x.T, own) for x in logits) / 4
    plain.backward()
    # The contrast heads round to float32, as the original's.
    assert loss == pytest.approx(plain.item(), rel=1e-6)
    for name, gradient in gradients(vlmo).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-7)


@pytest.fixture
def answers(vlmo, items, tmp_path):
    """A step whose encoder looks every answer up: (step, batch, pair by its text's ids, pair by its picture)."""
    step, batch = step_of(vlmo, items, tmp_path, Team("cpu"), 4)
    by_picture = {
        vlmo.normalize(p[None]).sum().double().item(): int(n) for n, p in zip(batch.pairs, batch.pictures, strict=True)
    }
    pieces = {int(n): vlmo.tokenize([step.pairs.text(n)])["ids"][0] for n in batch.pairs}

    def picture(pixels):
        return [by_picture[min(by_picture, key=lambda known: abs(known - p.sum().item()))] for p in pixels]

    return step, batch, pieces, picture


def test_matching_asks_for_true_pairs_and_for_false_ones(answers):
    step, batch, pieces, picture = answers
    asked = []

    def matching(pixels, tokens):
        texts = [row[keep].tolist() for row, keep in zip(tokens["ids"], tokens["mask"], strict=True)]
        true = [pieces[n].tolist() == text for n, text in zip(picture(pixels), texts, strict=True)]
        asked.extend(true)
        return torch.tensor([[0.0, 50.0] if match else [50.0, 0.0] for match in true])

    step.network.matching, step.objectives = matching, {"itm"}
    assert step(batch, learns=False)["itm"] == pytest.approx(0, abs=1e-12)  # every label is the truth
    assert (sum(asked), len(asked)) == (9, 27)


def test_masked_words_are_asked_for_where_they_stood(answers):
    step, batch, pieces, picture = answers
    asked = [0]

    def words(pixels, ids, mask, places):
        true = torch.zeros_like(ids)
        for row, n in enumerate(picture(pixels)):
            true[row, : len(pieces[n])] = pieces[n]
        assert torch.equal(ids[~places], true[~places])
        asked[0] += int(places.sum())
        return 50.0 * F.one_hot(true[places], 200)

    step.network.words, step.objectives = words, {"mlm"}
    assert step(batch, learns=False)["mlm"] == pytest.approx(0, abs=1e-12)
    assert asked[0] >= 9
    step.network.words = lambda pixels, ids, mask, places: torch.zeros(int(places.sum()), 200)
    assert step(batch, learns=False)["mlm"] == pytest.approx(np.log(200))  # the mean over words, not over texts


def test_two_processes_do_what_one_does(tiny_vlmo, tmp_path):
    for name in ("alone", "team"):
        (tmp_path / name).mkdir()
    team_script.main(tiny_vlmo, tmp_path / "alone")
    ran = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29571",
         Path(team_script.__file__), tiny_vlmo, tmp_path / "team"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    (one, losses, report), (two, shared, team_report) = (
        json.loads((tmp_path / name / "result.json").read_text()) for name in ("alone", "team")
    )
    assert (one, two, list(losses)) == (1, 2, ["itc", "bought", "itm", "mlm"])
    assert set(losses) == set(OBJECTIVES)
    assert shared == pytest.approx(losses, rel=1e-10)
    assert_equal(*(load_file(tmp_path / name / "gradients.safetensors") for name in ("team", "alone")))
    assert team_report["steps"] == report["steps"] == 4
    for entry, expected in zip(team_report["history"], report["history"], strict=True):
        assert entry == pytest.approx(expected, rel=1e-3)
    assert team_report["before"] == report["before"]


def test_a_batch_too_small_to_share_is_told(tiny_clip, items, tmp_path):
    encoder = encoders.build(f"openclip:local-dir:{tiny_clip}")
    apply_tuning(encoder, "head")
    settings = FinetuneSettings(finetune_batch_size=12, finetune_validation=0)
    task, pairs = Task(items, "", settings, store=tmp_path, show_progress=False), read_pairs(items, tmp_path)
    team = Team("cpu")
    team.size = 4
    with pytest.raises(DataError, match="4 processes share batches of 11 pairs, but each wants four at least"):
        Loop(task, network_of(encoder, ["itc"]), pairs, None, team, tmp_path / "state", {})
