"""Fine-tuning as a whole: it learns, it resumes to the same bytes, it keeps the best, it says what is wrong."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from shapes import make_shapes

from mmenc_plugin import encoders
from mmenc_plugin.errors import CheckpointError, DataError, SettingsError, TrainingError
from mmenc_plugin.settings import FinetuneSettings, TuningSettings
from mmenc_plugin.training import loop as loop_module
from mmenc_plugin.training.finetune import finetune
from mmenc_plugin.training.loop import Loop
from mmenc_plugin.training.step import Step
from mmenc_plugin.training.task import Task


@pytest.fixture
def make_task(tmp_path, tiny_hf_clip):
    def make(n=24, base=f"hf:{tiny_hf_clip}", taken=None, tuning=None, **settings):
        given = {"epochs": 2, "batch_size": 8, "chunk": 4, "validation": 0.25, "dir": str(tmp_path / "finetuned")}
        named = FinetuneSettings(**{f"finetune_{name}": value for name, value in (given | settings).items()})
        rates = TuningSettings(**{"encoder_learning_rate": 1e-3, **(tuning or {})})
        items = make_shapes(tmp_path / "shapes", n)
        return Task(items, base, named, rates, taken=taken, store=tmp_path / "store", show_progress=False)

    return make


def weights(result):
    """The bytes of the result's weights."""
    (path,) = (result.folder / "encoder").glob("*.safetensors")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_dual_encoder_learns_what_the_pictures_show(make_task, tiny_clip):
    task = make_task(
        None, f"openclip:local-dir:{tiny_clip}", epochs=26, batch_size=40, chunk=40, select="recall", patience=26,
        tuning={"encoder_learning_rate": 5e-3, "warmup": 0.1},
    )  # fmt: skip
    report = finetune(task).report
    assert report["pairs"] == {"training": 61, "validation": 20}  # held out are pairs of colours, each of them known
    assert max(report["before"][f"{way} R@1"] for way in ("image->text", "text->image")) <= 0.1
    assert min(report["after"][f"{way} R@1"] for way in ("image->text", "text->image")) > 0.9


class Killed(BaseException):
    """Stands for the end of the process."""


def killed_at(monkeypatch, task, folder, step):
    """Run until a step begins, with a checkpoint before each; the process dies there."""
    whole = Loop._learn

    def learn(self, *args):
        if self.state["step"] == step:
            raise Killed
        return whole(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(loop_module, "SAVE_SECONDS", -1.0)
        patch.setattr(Loop, "_learn", learn)
        with pytest.raises(Killed):
            finetune(task, folder)


@pytest.mark.parametrize(("tune", "steps"), [("full", (0, 3, 4)), ("lora:2", (2, 2))], ids=["full", "lora"])
def test_a_killed_run_ends_with_the_bytes_of_one_that_was_not(make_task, tmp_path, monkeypatch, tune, steps):
    task = make_task(tuning={"tune": tune})
    undisturbed = finetune(task, tmp_path / "undisturbed")
    assert undisturbed.report["steps"] == 6
    for step in steps:
        killed_at(monkeypatch, task, tmp_path / "killed", step)
    names = {path.suffix for path in (tmp_path / "killed" / "state").rglob("*") if path.is_file()}
    assert names == ({".json", ".safetensors"} if max(steps) else set())
    again = finetune(task, tmp_path / "killed")
    assert weights(again) == weights(undisturbed)
    assert again.report == undisturbed.report
    assert not (tmp_path / "killed" / "state").exists()


def test_a_run_that_died_before_its_report_only_writes_it(make_task, tmp_path, monkeypatch):
    task = make_task()
    undisturbed = finetune(task, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr("mmenc_plugin.training.finetune.save_encoder", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            finetune(task, tmp_path / "killed")
        patch.setattr(Loop, "_learn", None)
        with pytest.raises(Killed):
            finetune(task, tmp_path / "killed")
    assert weights(finetune(task, tmp_path / "killed")) == weights(undisturbed)


def test_what_is_there_is_taken_and_anything_else_is_made(make_task, monkeypatch):
    first = finetune(make_task())
    assert weights(first) != weights(finetune(make_task(batch_size=9)))
    monkeypatch.setattr(Loop, "run", None)
    assert finetune(make_task()) == first
    assert finetune(make_task(chunk=1, dir=str(first.folder.parent))) == first  # what is needed, not what is learned
    with pytest.raises(TypeError):
        finetune(replace(make_task(), seed=1))
    with pytest.raises(TypeError):
        finetune(make_task(n=23))


def test_changed_settings_are_named(make_task, tmp_path, monkeypatch):
    killed_at(monkeypatch, make_task(), tmp_path / "out", 3)
    with pytest.raises(
        CheckpointError, match=r"finetune_batch_size was 8 and is 6; tune was 'full' and is 'head'\. Set it"
    ):
        finetune(make_task(batch_size=6, tuning={"tune": "head"}), tmp_path / "out")
    done = finetune(make_task(), tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"seed was 2020 and is 3; other items\..*--output"):
        finetune(replace(make_task(n=20), seed=3), tmp_path / "out")
    assert finetune(make_task(), tmp_path / "out") == done


def test_the_result_is_an_encoder_with_its_lineage(make_task, tiny_hf_clip):
    base = f"hf:{tiny_hf_clip}"
    result = finetune(make_task())
    tuned, before = encoders.build(result.uri), encoders.build(base)
    assert not torch.equal(tuned.embed_texts(["red blue"]), before.embed_texts(["red blue"]))
    lineage = json.loads((result.folder / "encoder" / "lineage.json").read_text())
    assert lineage["base"] == base
    assert lineage["weights_sha256"] == {"before": before.spec.weights_sha256, "after": tuned.spec.weights_sha256}
    assert lineage["made_of"]["items"]
    assert lineage["after"] == result.report["after"]


def test_the_best_epoch_is_kept_and_training_stops(make_task, monkeypatch):
    losses, kept = iter([3.0, 1.0, 2.0, 1.0, 5.0]), []
    monkeypatch.setattr(Loop, "_validation_loss", lambda self: next(losses))
    whole = Loop._close_epoch

    def close(self, epoch, bar):
        kept.append(self.encoder.model.text_model.embeddings.token_embedding.weight.detach().clone())
        whole(self, epoch, bar)

    monkeypatch.setattr(Loop, "_close_epoch", close)
    result = finetune(make_task(epochs=9, patience=2))
    assert result.report["best_epoch"] == 1
    assert len(result.report["history"]) == 4
    assert torch.equal(encoders.build(result.uri).model.text_model.embeddings.token_embedding.weight, kept[1])
    assert not torch.equal(kept[1], kept[3])


def test_recall_can_choose_and_without_validation_the_last_is_kept(make_task):
    report = finetune(make_task(select="recall", epochs=3)).report
    recalls = [entry["image->text R@1"] + entry["text->image R@1"] for entry in report["history"]]
    assert report["best_epoch"] == recalls.index(max(recalls))
    report = finetune(make_task(validation=0, epochs=3)).report
    assert report["best_epoch"] == 2
    assert report["measured_on"] == "training"
    assert report["pairs"] == {"training": 24, "validation": 0}


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(make_task, tmp_path, monkeypatch):
    task = make_task()
    undisturbed = finetune(task, tmp_path / "undisturbed")
    whole = Step.__call__

    def step(self, batch, learns):
        return {"itc": float("nan")} if batch.seed[1:] == (1, 1) else whole(self, batch, learns)

    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", step)
        told = r"the loss is \{'itc': nan\} in epoch 1, step 1 of it, 4 in all .*items 'i\d+',.* is kept: of step 3, in"
        with pytest.raises(TrainingError, match=told):
            finetune(task, tmp_path / "stopped")
    assert weights(finetune(task, tmp_path / "stopped")) == weights(undisturbed)


def test_weights_that_are_no_numbers_are_noticed(make_task, tmp_path):
    task = make_task(tuning={"encoder_learning_rate": 1e30, "warmup": 0})
    with pytest.raises(TrainingError, match=r"(the loss is|a gradient is no number).* in epoch 0, step [12] of it"):
        finetune(task, tmp_path / "out")


def test_pictures_that_cannot_be_decoded_are_left_out(make_task, tmp_path, caplog):
    task = make_task(validation=0, epochs=1)
    path = task.items.image_dir / "5.png"
    path.write_bytes(path.read_bytes()[:70])
    report = finetune(task).report
    assert report["pairs"]["training"] == 23
    assert "1 of 24 pairs have pictures that cannot be used: 'i5'" in caplog.text


def test_bfloat16_and_checkpointing_train(make_task):
    plain, coarse, lean = (
        finetune(make_task(epochs=1, tuning=tuning, dir=f"{make_task().settings.finetune_dir}{k}")).report
        for k, tuning in enumerate([{}, {"autocast": "bfloat16"}, {"gradient_checkpointing": True}])
    )
    assert coarse["history"][0]["loss"] == pytest.approx(plain["history"][0]["loss"], rel=0.02)
    assert coarse["history"] != plain["history"]
    assert lean["history"][0]["loss"] == pytest.approx(plain["history"][0]["loss"], rel=1e-5)


def test_vlmo_learns_by_all_its_objectives(make_task, tiny_vlmo):
    task = make_task(16, f"vlmo:{tiny_vlmo}", objectives=["itc", "itm", "mlm"], epochs=3)
    result = finetune(task)
    first, last = result.report["history"][0], result.report["history"][-1]
    assert last["loss"] < first["loss"]
    tuned, before = encoders.build(result.uri).network, encoders.build(f"vlmo:{tiny_vlmo}").network
    moved = {name for name, p in tuned.named_parameters() if not torch.equal(p, before.state_dict()[name])}
    heads = ["itc_image_proj", "itc_vl_text_proj", "itm_score", "mlm_score", "logit_scale", "logit_vl_scale", "pooler"]
    assert all(any(name.startswith(head) for name in moved) for head in heads)


def test_what_was_bought_together_comes_together(make_task):
    pairs = [(0, 5), (1, 8), (2, 13)]
    taken = [user for user in range(9) for _ in range(2)], [f"i{i}" for k in range(9) for i in pairs[k % 3]]
    task = make_task(16, objectives=["bought"], validation=0, epochs=8, taken=taken)

    def similarity(encoder):
        paths = [task.items.image_dir / name for name in task.items.images]
        images, texts = encoder.embed_images(paths), encoder.embed_texts(task.items.texts)
        scores = torch.nn.functional.cosine_similarity(images[:, None], texts[None], dim=2)
        return float(torch.stack([scores[i, j] + scores[j, i] for i, j in pairs]).mean() - 2 * scores.mean())

    tuned = encoders.build(finetune(task).uri)
    assert similarity(tuned) > similarity(encoders.build(task.base)) + 0.1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"base": "classic"}, "has no weights.*share no space"),
        ({"objectives": ["itc", "itm"]}, "must see picture and text together.*family vlmo"),
        ({"objectives": ["bought"]}, "no user of the 0 interactions of the training part"),
        ({"n": 1}, "at least two, but 1 of 1 items"),
        ({"n": 2}, "2 pairs cannot be held out.*finetune_validation: 0"),
    ],
)
def test_what_cannot_be_is_told(make_task, settings, told):
    with pytest.raises((SettingsError, DataError), match=told):
        finetune(make_task(**settings))


def test_two_pairs_are_enough_without_validation(make_task):
    assert finetune(make_task(2, validation=0, epochs=1)).report["steps"] == 1
