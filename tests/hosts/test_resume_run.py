"""A run that is killed and started again ends with the bits of one that was not."""

import json
import subprocess
import sys
from pathlib import Path

import live_shop
import pytest
import torch
from safetensors.torch import load_file

from mmenc_plugin.errors import CheckpointError, TrainingError
from mmenc_plugin.training import checkpoints

# Runs RecBole in one forked process after another, from a parent that has imported everything; some kill themselves
# in a batch of an epoch.
DRIVER = """
import json, os, signal, sys, traceback
from types import SimpleNamespace
import torch
import recbole.quick_start.quick_start as quick_start
from mmenc_plugin import encoders
from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer
torch.set_num_threads(1)
jobs = json.loads(sys.argv.pop(1))
encoders.build(jobs[0][1]["encoder"])
import peft  # once torchvision can be imported, which an encoder sees to
quick_start.get_environment = lambda config: SimpleNamespace(draw=str)  # which sleeps for a second
check = MultimodalTrainer._check_nan

def work(model, settings, at):
    def killed(self, loss):
        if at and self.place == tuple(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return check(self, loss)

    MultimodalTrainer._check_nan = killed
    result = quick_start.run_recbole(model=model, dataset="tiny", config_dict=settings)
    print("RESULT", json.dumps({k: float(v) for k, v in result["test_result"].items()}), flush=True)

for job in jobs:
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work(*job)
            status = 0
        except Exception:
            traceback.print_exc()
        finally:
            os._exit(status)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended == (-9 if job[2] else 0), ended
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory, tiny_clip):
    folder = tmp_path_factory.mktemp("resume")
    return folder, {**live_shop.SETTINGS, **live_shop.make(folder), "encoder": f"openclip:local-dir:{tiny_clip}"}


def end_of(folder):
    (path,) = folder.glob("*/epoch-*")
    state = checkpoints.read(path.parent)
    assert state["finished"]
    return load_file(path / "state.safetensors"), state


TWICE, ONCE = (None, (1, 1), (3, 2), None, None), (None, (2, 1), None)  # the first run of each is not stopped
CASES = {
    "warm start, schedule and lora": ("VBPR", {"warm_start_epochs": 1, "tune": "lora:2", "itc_weight": 0.1}, TWICE),
    "stale rows, dropout, graphs": ("FREEDOM", {"refresh": "never", "eval_step": 2, "tune": "top:1"}, ONCE),
    "frozen": ("MMGCL", {"paradigm": "frozen"}, ONCE),
}


@pytest.fixture(scope="module")
def results(shop):
    """What the runs of each case that came to their end have printed."""
    folder, settings = shop
    jobs = []
    for case, (model, more, moments) in CASES.items():
        for place, at in enumerate(moments):
            resume_dir = folder / case / ("whole" if place == 0 else "stopped")
            options = {"epochs": 4, "checkpoint_dir": str(folder / case / "saved"), "resume_dir": str(resume_dir)}
            jobs.append((model, settings | more | options, at))
    command = [sys.executable, "-c", DRIVER, json.dumps(jobs)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    printed = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    ends = iter(printed)
    return {case: [next(ends) for at in moments if at is None] for case, (*_, moments) in CASES.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_is_killed_ends_with_the_same_bits(shop, results, case):
    assert len(set(results[case])) == 1
    folder = shop[0] / case
    (expected, one), (found, other) = end_of(folder / "whole"), end_of(folder / "stopped")
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    same = ("best_valid_score", "cur_step", "best_valid_result", "train_loss_dict", "settings", "epoch")
    assert {key: one[key] for key in same} == {key: other[key] for key in same}
    assert str(one["random"][0]["numpy"]) == str(other["random"][0]["numpy"])
    assert not list(folder.rglob("*.part"))


@pytest.fixture
def stopped(shop, tmp_path, monkeypatch):
    """Settings of a run of which two epochs are done."""
    monkeypatch.chdir(tmp_path)
    settings = shop[1] | {"checkpoint_dir": str(tmp_path / "saved"), "resume_dir": str(tmp_path / "r"), "epochs": 3}
    trainer, train, valid, _ = live_shop.prepare(settings)
    trainer._check_nan = lambda loss: (_ for _ in ()).throw(KeyboardInterrupt) if trainer.place == (2, 1) else None
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(train, valid, verbose=False)
    return settings


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tune": "top:1"}, "cannot go on: tune was full and is now top:1. Set back what was changed"),
        ({"encoder_learning_rate": 2e-3}, r"encoder_learning_rate was 0.001 and is now 0.002"),
        ({"train_batch_size": 8}, "train_batch_size was 16 and is now 8"),
        ({"paradigm": "frozen"}, "paradigm was end_to_end and is now frozen"),
        ({"epochs": 5}, "epochs was 3 and is now 5"),
        ({"seed": 1}, "seed was 2020 and is now 1"),
    ],
)
def test_changed_settings_are_named(stopped, changed, message):
    trainer, train, valid, _ = live_shop.prepare(stopped | changed)
    with pytest.raises(CheckpointError, match=message):
        trainer.fit(train, valid, verbose=False)


def test_what_changes_no_weight_may_change(stopped):
    trainer, train, valid, _ = live_shop.prepare(stopped | {"metrics": ["Recall", "NDCG"], "encoder_workers": 2})
    trainer.fit(train, valid, verbose=False)
    assert trainer.start_epoch == 2


def test_a_lost_best_epoch_and_a_damaged_checkpoint_are_errors(stopped):
    (best,) = Path(stopped["checkpoint_dir"]).glob("*.pth")
    best.rename(best.with_suffix(".away"))
    trainer, train, valid, _ = live_shop.prepare(stopped)
    with pytest.raises(CheckpointError, match=r"the best epoch of the run in .* is not there any more. Put it back"):
        trainer.fit(train, valid, verbose=False)
    (state,) = Path(stopped["resume_dir"]).rglob("state.safetensors")
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"cannot be read: .*Delete it to start anew"):
        trainer.fit(train, valid, verbose=False)


def test_weights_that_are_not_finite_are_never_kept(stopped):
    trainer, train, *_ = live_shop.prepare(stopped)
    trainer.live.end_step = lambda batch: trainer.model.model.item_bias.weight.data.fill_(torch.inf) if batch else None
    trainer._check_nan = lambda loss: None
    trainer._loss = lambda interaction: sum(p.sum() for p in trainer.live.others()) * 0
    with pytest.raises(TrainingError, match=r"after epoch 2, 1 of .* not finite .*The checkpoint before it is kept in"):
        trainer.fit(train, verbose=False)
    state = checkpoints.read(Path(stopped["resume_dir"]) / "VBPR-tiny")
    assert state["epoch"] == 2
    assert all(value.isfinite().all() for value in state["model"].values())


def test_a_checkpoint_holds_no_pickle(stopped):
    (folder,) = Path(stopped["resume_dir"]).rglob("epoch-*")
    assert {path.name for path in folder.iterdir()} == {"state.json", "state.safetensors"}
    json.loads((folder / "state.json").read_text())


def test_values_of_every_kind_come_back(tmp_path):
    state = {
        "a": torch.arange(6).view(2, 3).T, "b": {0: torch.tensor(1.0), 3: None}, "c": (1, [2.5, "x"], -float("inf")),
        ":d": True, "e": {"f": torch.zeros(2, dtype=torch.bfloat16)},
    }  # fmt: skip
    checkpoints.write(tmp_path, 4, {"epoch": 3})
    checkpoints.write(tmp_path, 5, state)
    found = checkpoints.read(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["epoch-5"]
    assert torch.equal(found.pop("a"), state.pop("a"))
    assert torch.equal(found["e"]["f"], state["e"]["f"])
    assert found["b"][0].item() == 1.0
    assert found["b"][3] is None
    assert (found["c"], found[":d"]) == (state["c"], True)
    assert checkpoints.read(tmp_path / "none") is None
