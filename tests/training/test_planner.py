"""A plan's numbers are those of the run: counted by hand, or measured on the real step."""

import math
from contextlib import closing
from dataclasses import replace

import pytest
import torch

from mmenc_plugin import encoders, models
from mmenc_plugin.cli._plan_page import page
from mmenc_plugin.features import FrozenFeatures, align, extract
from mmenc_plugin.features.align import arrange
from mmenc_plugin.features.live import LiveFeatures, LiveOptions
from mmenc_plugin.settings import FeatureSettings, FinetuneSettings, LiveSettings, TuningSettings
from mmenc_plugin.training import apply_tuning
from mmenc_plugin.training.encoding import sample_inputs
from mmenc_plugin.training.measure import peak
from mmenc_plugin.training.plan import distinct_items, free_memory, halves
from mmenc_plugin.training.planner import Run, make_plan
from mmenc_plugin.types import Interactions, TripletBatch

N, BATCH = 40, 64
CPU = torch.device("cpu")
PLENTY = 1e12


@pytest.fixture
def shop(make_items, tiny_clip, tmp_path):
    return Shop(make_items(N), f"openclip:local-dir:{tiny_clip}", tmp_path / "store")


class Shop:
    def __init__(self, items, uri, store):
        self.items, self.uri, self.store = items, uri, store
        users, taken = torch.randint(1, 9, (200,)), torch.randint(1, N + 1, (200,))
        self.interactions = Interactions(users, taken, 9, N + 1, padding_row=True)
        self.batches = [
            TripletBatch(users[:BATCH], taken[k : k + BATCH], torch.randint(1, N + 1, (BATCH,))) for k in (0, 50, 100)
        ]

    def tables(self, encoder):
        blocks = {m: extract(self.items, encoder, m, self.store, show_progress=False) for m in ("image", "text")}
        return {m: align(block, self.items.ids, padding_row=True) for m, block in blocks.items()}

    def run(self, paradigm="end_to_end", free=PLENTY, tuning=None, live=None, **changes):
        encoder = encoders.build(self.uri)
        built = {"image": encoder, "text": encoder}
        inputs, preparing = sample_inputs(self.items, built, 1)
        model = models.build("VBPR", {}, FrozenFeatures(self.tables(encoder)), self.interactions)
        fields = {
            "title": "VBPR on a shop", "device": CPU, "device_name": "a CPU", "free": free,
            "features": FeatureSettings(paradigm=paradigm, encoder_batch_size=8),
            "tuning": TuningSettings(**(tuning or {})), "live": LiveSettings(**(live or {})),
            "finetune": FinetuneSettings(finetune_batch_size=16, finetune_chunk=4, finetune_epochs=3),
            "encoders": built, "learning": built, "inputs": inputs, "preparing": preparing,
            "left": {"image": 20, "text": 0},
            "n_items": N, "model": model, "batches": self.batches, "batch_size": BATCH, "steps": 4, "epochs": 10,
            "evaluations": 5, "learner": "adam", "k": 10,
        }  # fmt: skip
        return Run(**{**fields, **changes})

    def step(self, tuning):
        """Bytes of the activations of a real step over the first batch."""
        encoder = encoders.build(self.uri)
        tables = self.tables(encoder)
        apply_tuning(encoder, tuning.tune, {"image", "text"})
        options = LiveOptions(padding_row=True, batch_size=8, recompute=tuning.gradient_checkpointing)
        items = arrange(self.items, self.items.ids, padding_row=True)
        live = LiveFeatures(items, tables, dict.fromkeys(("image", "text"), encoder), self.store, options)
        with closing(live):
            model = models.build("VBPR", {}, live, self.interactions).train()

            def step():
                live.begin_step(model.items_read(self.batches[0]))
                torch.stack(list(model.loss(self.batches[0]).values())).sum().backward()
                live.end_step()

            step()
            there = [t for p in model.parameters() for t in (p, p.grad) if t is not None]
            with peak(CPU, [*there, *model.buffers()]) as found:
                step()
        return found.bytes


def stage(plan, name):
    return next(stage for stage in plan.stages if stage.name.startswith(name))


@pytest.mark.parametrize("tuning", [{}, {"tune": "top:1"}, {"gradient_checkpointing": True}], ids=str)
def test_activations_are_those_of_a_real_step(shop, tuning):
    run = shop.run(tuning=tuning, batches=shop.batches[:1] * 2)
    found = stage(make_plan(run), "train encoder").memory.activations
    assert found == pytest.approx(shop.step(run.tuning), rel=0.2)


@pytest.mark.parametrize("tune", ["full", "head", "top:1", "lora:2"])
def test_parameters_are_those_of_the_tuning(shop, tune):
    run = shop.run(tuning={"tune": tune})
    plan = make_plan(run)
    encoder = encoders.build(shop.uri)
    tuning = apply_tuning(encoder, tune, {"image", "text"})
    *towers, recommender = plan.parts
    assert sum(part.trained for part in towers) == tuning.n_trained
    assert sum(part.all for part in towers) == sum(p.numel() for p in encoder.parameters())
    assert recommender.trained == recommender.all == sum(p.numel() for p in run.model.parameters())
    memory = stage(plan, "train encoder").memory
    assert memory.gradients == 4 * (tuning.n_trained + recommender.all)
    assert memory.optimizer == 2 * memory.gradients
    assert all(p.requires_grad for p in run.encoders["image"].parameters())  # the measurement was on a copy


def test_stages_of_a_frozen_run(shop):
    run = shop.run("frozen")
    plan = make_plan(run)
    assert [(s.name, s.steps) for s in plan.stages] == [
        ("encode image", math.ceil(20 / 8)), ("train the recommender", 40), ("evaluations", 5),
    ]  # fmt: skip
    assert all(part.trained == 0 for part in plan.parts[:-1])
    assert stage(plan, "encode").memory.gradients == 0
    assert plan.hours == pytest.approx(sum(s.steps * s.seconds for s in plan.stages) / 3600)
    assert plan.items == ["image: 20 of 40 items have to be encoded", "text: 0 of 40 items have to be encoded"]


@pytest.mark.parametrize(
    ("live", "warm", "joint", "times"),
    [
        ({}, 0, 40, 10),
        ({"warm_start_epochs": 4}, 16, 24, 6),
        ({"refresh": "evaluation"}, 0, 40, 5),
        ({"refresh": "steps:3", "warm_start_epochs": 7}, 28, 12, 3 + 4),
        ({"refresh": "never"}, 0, 40, 1),
        ({"warm_start_epochs": 20}, 40, 0, 0),
    ],
)
def test_stages_of_an_end_to_end_run(shop, live, warm, joint, times):
    plan = make_plan(shop.run(live=live))
    expected = {
        "encode image": 3, "train the recommender": warm, "train encoder and recommender": joint,
        "encode image again": math.ceil(times * N / 8), "encode text again": math.ceil(times * N / 8), "evaluations": 5,
    }  # fmt: skip
    assert {s.name: s.steps for s in plan.stages} == {name: n for name, n in expected.items() if n}


def test_stages_of_a_run_that_fine_tunes(shop):
    plan = make_plan(shop.run("finetuned"))
    assert [(s.name, s.steps) for s in plan.stages] == [
        ("fine-tune the encoder", math.ceil(N * 0.9 / 16) * 3),
        ("encode image", 5), ("encode text", 5), ("train the recommender", 40), ("evaluations", 5),
    ]  # fmt: skip


def test_fine_tuning_contrasts_texts_too_where_only_pictures_are_recommended_by(shop):
    run = shop.run("finetuned")
    plan = make_plan(replace(run, encoders={"image": run.encoders["image"]}))
    assert [s.name for s in plan.stages][:3] == ["fine-tune the encoder", "encode image", "train the recommender"]
    text = next(part for part in plan.parts if part.name.endswith(", text"))
    assert text.trained == text.all > 0


def test_what_fits_has_no_other_settings(shop):
    plan = make_plan(shop.run())
    assert plan.fits
    assert not plan.options
    assert "fits into" in page(plan)


def test_settings_that_take_less_are_measured_where_it_does_not_fit(shop):
    scope = {"tune": "top:1"}  # whose fixed part is small
    whole = make_plan(shop.run(tuning=scope))
    fixed = whole.largest.memory.total - whole.largest.memory.activations
    plan = make_plan(shop.run(tuning=scope, free=fixed + whole.largest.memory.activations / 3))
    assert not plan.fits
    options = {", ".join(f"{k}: {v}" for k, v in option.settings.items()): option.stage for option in plan.options}
    *single, last = options
    assert single == ["gradient_checkpointing: true", "autocast: bfloat16", "tune: head"]
    assert options["gradient_checkpointing: true"].memory.activations < whole.largest.memory.activations / 2
    assert options["tune: head"].memory.total < whole.largest.memory.total
    assert last.startswith("train_batch_size: ")
    assert options[last].memory.total <= plan.free
    told = page(plan)
    assert "does NOT FIT" in told
    assert all(settings in told for settings in options)


def test_fine_tuning_that_does_not_fit_is_told_a_smaller_chunk(shop):
    whole = make_plan(shop.run("finetuned"))
    plan = make_plan(shop.run("finetuned", free=whole.largest.memory.total - 1))
    assert {"finetune_chunk": "2"} in [option.settings for option in plan.options]


def test_nothing_fits_is_said(shop):
    plan = make_plan(shop.run(free=1.0))
    assert "none of these fits" in page(plan)


def test_a_setting_that_is_there_is_not_proposed(shop):
    plan = make_plan(shop.run(free=1.0, tuning={"tune": "top:1", "autocast": "bfloat16"}))
    assert [option.settings for option in plan.options] == [{"gradient_checkpointing": "true"}, {"tune": "head"}]


def test_encoders_that_bring_features_have_nothing_to_train(shop):
    plan = make_plan(shop.run("frozen", encoders={}, learning={}, inputs={}, preparing=0.0, left={"image": 0}))
    assert [part.name for part in plan.parts] == ["recommender"]
    assert [s.name for s in plan.stages] == ["train the recommender", "evaluations"]


def test_distinct_items_are_counted_in_each_part_of_a_batch(shop):
    def batch(positives, negatives):
        return TripletBatch(torch.zeros(3).long(), torch.tensor(positives), torch.tensor(negatives))

    batches = [batch([1, 1, 2], [3, 1, 4]), batch([5, 6, 7], [8, 9, 5])]
    model = shop.run().model
    assert distinct_items(batches, model.items_read, 3) == (4 + 5) / 2
    assert distinct_items(batches, model.items_read, 2) == (2 + 4) / 2
    alone = models.build("VBPR", {"loss_type": "in_batch"}, model.features, shop.interactions)
    assert distinct_items(batches, alone.items_read, 3) == (2 + 3) / 2
    assert halves(10) == [5, 2, 1]


def test_free_memory_is_bounded_by_the_containers_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mmenc_plugin.training.plan._CGROUP", tmp_path)
    machine = free_memory(CPU)
    assert machine > 0
    (tmp_path / "memory.max").write_text("5000\n")
    (tmp_path / "memory.current").write_text("2000\n")
    assert free_memory(CPU) == 3000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(CPU) > 3000


def test_recommenders_that_learn_nothing_are_only_ranked_by(shop):
    run = shop.run("frozen")
    model = models.build("ItemKNNContent", {"knn_k": 0}, run.model.features, shop.interactions)
    plan = make_plan(replace(run, model=model))
    assert plan.parts[-1].all == 0
    assert stage(plan, "evaluations").seconds > 0
