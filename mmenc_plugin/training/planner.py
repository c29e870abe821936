"""Measures a run's parts and adds them up to its plan."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from mmenc_plugin.encoders import Encoder
from mmenc_plugin.errors import MmencError
from mmenc_plugin.models import MultimodalRecommender
from mmenc_plugin.settings import FeatureSettings, FinetuneSettings, LiveSettings, TuningSettings, refresh_rule
from mmenc_plugin.training.encoding import EncodingStep
from mmenc_plugin.training.measure import Cost
from mmenc_plugin.training.memory import lighter
from mmenc_plugin.training.plan import Memory, Option, Part, Plan, Stage, distinct_items, halves
from mmenc_plugin.training.recommending import recommender_cost
from mmenc_plugin.training.tuning import apply_tuning
from mmenc_plugin.types import Modality, TripletBatch

Encoders = Mapping[Modality, Encoder]
PROBE = 4  # items of the first measurement of an encoder; the second has twice as many


@dataclass(frozen=True)
class Run:
    """What is to be planned.

    Attributes:
        title: model and data set.
        device: on which it runs.
        device_name: in words.
        free: bytes that the device had left before anything was loaded.
        features: settings, as the next two.
        tuning: settings.
        finetune: settings.
        live: settings.
        encoders: of each modality that is encoded, on the device; the same object for modalities of one encoder.
        inputs: of each modality, what a few items give the encoder.
        preparing: seconds to prepare one item's pictures.
        left: of each modality, the contents that the feature store lacks.
        n_items: I, without a padding row.
        model: the recommender, on the device, with features of the right width.
        batches: of the real data, on the device; at least 2.
        batch_size: train_batch_size.
        steps: in an epoch.
        epochs: of the recommender.
        evaluations: at most.
        learner: RecBole's name of the optimizer.
        k: length of the ranked lists.
    """

    title: str
    device: torch.device
    device_name: str
    free: float
    features: FeatureSettings
    tuning: TuningSettings
    finetune: FinetuneSettings
    live: LiveSettings
    encoders: Encoders
    inputs: Mapping[Modality, Sequence[Any]]
    preparing: float
    left: Mapping[Modality, int]
    n_items: int
    model: MultimodalRecommender
    batches: Sequence[TripletBatch]
    batch_size: int
    steps: int
    epochs: int
    evaluations: int
    learner: str
    k: int

    @property
    def joint_epochs(self) -> int:
        """Those in which an encoder is trained with the recommender."""
        return max(0, self.epochs - self.live.warm_start_epochs)


def make_plan(run: Run) -> Plan:
    """Take a few steps of each kind, and add up what all of them take."""
    return _Planner(run).plan()


class _Planner:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.recommender = recommender_cost(run.model, run.batches, run.device, run.k)
        self.trains = run.features.paradigm != "frozen" and bool(run.encoders)
        self.encoding = {m: self._cost({m: encoder}, "none", False) for m, encoder in run.encoders.items()}

    def plan(self) -> Plan:
        run, paradigm = self.run, self.run.features.paradigm
        tuned = self._tuned(run.tuning) if self.trains else run.encoders
        parts = [*_encoder_parts(tuned, self.trains), Part.of("recommender", run.model.parameters())]
        stages: list[Stage] = []
        if self.trains:
            cost = self._cost(tuned, run.tuning.autocast, True)
            training = self._joint if paradigm == "end_to_end" else self._finetuning
            stages = [training(tuned, cost)]
        plan = Plan(
            f"{run.title}, paradigm {paradigm}", run.device_name, run.free, parts, self._items(), self._ordered(stages)
        )
        return plan if plan.fits or not stages else replace(plan, options=list(self._options(stages[0])))

    def _ordered(self, training: Sequence[Stage]) -> list[Stage]:
        run, paradigm = self.run, self.run.features.paradigm
        model = Memory.of([run.model], run.learner, self.recommender.step_bytes)
        epochs = run.epochs - (run.joint_epochs if paradigm == "end_to_end" else 0)
        recommending = Stage("train the recommender", epochs * run.steps, self.recommender.step_seconds, model)
        everything = dict.fromkeys(run.encoders, run.n_items)
        stages = [*self._extraction(run.left, "encode {}"), recommending, *training]
        if paradigm == "finetuned":
            stages = [*training, *self._extraction(everything, "encode {}"), recommending]
        if paradigm == "end_to_end":
            times = self._refreshes()
            stages += self._extraction(dict.fromkeys(run.encoders, times * run.n_items), "encode {} again")
        ranking = Memory.of([run.model], "sgd")
        stages.append(Stage("evaluations", run.evaluations, self.recommender.ranking_seconds, ranking))
        return [stage for stage in stages if stage.steps]

    def _joint(self, encoders: Encoders, cost: Cost, batch_size: int | None = None) -> Stage:
        """Encoder and recommender together."""
        run, size = self.run, batch_size or self.run.batch_size
        items = self._distinct(size)
        whole = Memory.of([*encoders.values(), run.model], run.learner, cost.bytes(items) + self.recommender.step_bytes)
        seconds = self._prepared(cost.seconds(items), items) + self.recommender.step_seconds * size / run.batch_size
        steps = math.ceil(run.steps * run.batch_size / size) * run.joint_epochs
        return Stage("train encoder and recommender", steps, seconds, whole)

    def _finetuning(self, encoders: Encoders, cost: Cost, chunk: int | None = None) -> Stage:
        """The encoder alone. A batch of several chunks is encoded twice, first without gradient."""
        settings = self.run.finetune
        size = settings.finetune_batch_size
        chunk = min(size, chunk or settings.finetune_chunk)
        first = sum(c.seconds(chunk) for c in self.encoding.values()) if chunk < size else 0.0
        seconds = self._prepared((cost.seconds(chunk) + first) * size / chunk, size)
        pairs = self.run.n_items * (1 - settings.finetune_validation)
        steps = math.ceil(pairs / size) * settings.finetune_epochs
        return Stage("fine-tune the encoder", steps, seconds, Memory.of(encoders.values(), "adamw", cost.bytes(chunk)))

    def _extraction(self, contents: Mapping[Modality, float], name: str) -> list[Stage]:
        size, stages = self.run.features.encoder_batch_size, []
        for m, n in contents.items():
            cost = self.encoding[m]
            seconds = self._prepared(cost.seconds(size), size if m != "text" else 0)
            memory = Memory.of([self.run.encoders[m]], "sgd", cost.bytes(size))
            stages.append(Stage(name.format(m), math.ceil(n / size), seconds, replace(memory, gradients=0.0)))
        return stages

    def _options(self, stage: Stage) -> Iterator[Option]:
        """Settings one at a time; a smaller batch; and all that leaves the result as it is, with a smaller batch."""
        run = self.run
        joint = run.features.paradigm == "end_to_end"
        given = {"paradigm": run.features.paradigm, **run.tuning.model_dump()}
        gentle = {key: value for way in lighter(given)[:2] if "tune" not in way for key, value in way.items()}
        for way in lighter(given):
            option = self._option(way, stage)
            if option:
                yield option
        key, size = ("train_batch_size", run.batch_size) if joint else ("finetune_chunk", run.finetune.finetune_chunk)
        for way in ({}, gentle):
            sizes = [self._option(way, stage, key, part) for part in halves(size)[:8]]
            fitting = [option for option in sizes if option and option.stage.memory.total <= run.free]
            if fitting:
                yield fitting[0]
                return

    def _option(self, way: Mapping[str, Any], stage: Stage, key: str = "", size: int | None = None) -> Option | None:
        try:
            encoders, cost = self._measured(tuple(way.items()))
        except MmencError:  # an encoder that this way of tuning does not fit
            return None
        make = self._joint if self.run.features.paradigm == "end_to_end" else self._finetuning
        changed = {name: str(value).lower() for name, value in way.items()} | ({key: str(size)} if key else {})
        return Option(changed, make(encoders, cost, size))

    def _measured(self, way: tuple[tuple[str, Any], ...]) -> tuple[Encoders, Cost]:
        kept: dict[Any, tuple[Encoders, Cost]] = self.__dict__.setdefault("_kept", {})
        if way not in kept:
            tuning = self.run.tuning.model_copy(update=dict(way))
            encoders = self._tuned(tuning)
            kept[way] = encoders, self._cost(encoders, tuning.autocast, True)
        return kept[way]

    def _tuned(self, tuning: TuningSettings) -> Encoders:
        """A copy of the encoders that learns as the settings say."""
        encoders = copy.deepcopy(dict(self.run.encoders))
        for encoder in {id(e): e for e in encoders.values()}.values():
            apply_tuning(encoder, tuning.tune, {m for m, e in encoders.items() if e is encoder})
            encoder.set_gradient_checkpointing(tuning.gradient_checkpointing)
        return encoders

    def _cost(self, encoders: Encoders, autocast: str, trains: bool) -> Cost:
        step = EncodingStep(encoders, self.run.inputs, self.run.device, autocast)
        return step.cost(step.train if trains else step.encode, PROBE)

    def _distinct(self, size: int) -> float:
        return distinct_items(self.run.batches, self.run.model.items_read, size)

    def _prepared(self, computing: float, items: float) -> float:
        """Seconds of a step whose pictures are prepared meanwhile; on a CPU that takes the computation's cores."""
        preparing = self.run.preparing * items
        return computing + preparing if self.run.device.type == "cpu" else max(computing, preparing)

    def _refreshes(self) -> int:
        """How often all items are encoded again: what was refreshed for an evaluation is fresh in the next epoch."""
        run, (rule, every) = self.run, refresh_rule(self.run.live.refresh)
        if rule == "steps":
            return run.joint_epochs + run.joint_epochs * run.steps // every
        return {"epoch": run.joint_epochs, "evaluation": min(run.evaluations, run.joint_epochs), "never": 1}[rule]

    def _items(self) -> list[str]:
        run = self.run
        lines = [f"{m}: {n:,} of {run.n_items:,} items to be encoded, the others are in the store"
                 for m, n in run.left.items()]  # fmt: skip
        if run.features.paradigm != "end_to_end":
            return lines
        items, slots = self._distinct(run.batch_size), 2 * run.batch_size
        return [
            f"a step encodes {items:,.0f} different items, where its batch has {slots:,} places",
            f"an epoch encodes {items * run.steps:,.0f} in {run.steps:,} steps, refresh: {run.live.refresh} "
            f"{self._refreshes():,} times all {run.n_items:,}",
        ]


def _encoder_parts(encoders: Encoders, trains: bool) -> list[Part]:
    """The parameters of each tower of each encoder."""
    parts = []
    for encoder in {id(e): e for e in encoders.values()}.values():
        towers: dict[str, list[torch.Tensor]] = {}
        places = encoder.places() if encoder.towers else {}
        for name, parameter in encoder.named_parameters():
            shown = parameter if trains else parameter.detach()
            towers.setdefault(places[name].tower if name in places else "", []).append(shown)
        title = f"{encoder.spec.family}:{encoder.spec.architecture}"
        parts += [Part.of(f"{title}, {tower or 'shared'}", parameters) for tower, parameters in towers.items()]
    return parts
