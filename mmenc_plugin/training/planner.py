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
PROBE = 6  # items of the first measurement of an encoder; the second has twice as many


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
        learning: of each modality that the encoders' training encodes; fine-tuning contrasts image and text, whatever
            the recommender has.
        inputs: of each of these modalities, what a few items give the encoder.
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
    learning: Encoders
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


@dataclass(frozen=True)
class _Learner:
    """Encoders that learn.

    Attributes:
        encoders: of each modality.
        cost: of a step over some items.
        tuning: their settings.
    """

    encoders: Encoders
    cost: Cost
    tuning: TuningSettings


class _Planner:
    def __init__(self, run: Run) -> None:
        self.run = run
        self.recommender = recommender_cost(run.model, run.batches, run.device, run.k)
        self.trains = run.features.paradigm != "frozen" and bool(run.learning)
        self.encoding = {m: self._cost({m: encoder}, "none", False) for m, encoder in run.encoders.items()}
        self.again = {m: self.encoding.get(m) or self._cost({m: e}, "none", False) for m, e in run.learning.items()}

    def plan(self) -> Plan:
        """The whole."""
        run = self.run
        learner = self._learner(run.tuning) if self.trains else None
        parts = _encoder_parts(learner.encoders if learner else run.encoders, self.trains)
        plan = Plan(
            f"{run.title}, paradigm {run.features.paradigm}",
            run.device_name,
            run.free,
            [*parts, Part.of("recommender", run.model.parameters())],
            self._items(),
            self._stages([self._training(learner)] if learner else []),
        )
        return plan if plan.fits or not learner else replace(plan, options=list(self._options(learner)))

    def _stages(self, training: Sequence[Stage]) -> list[Stage]:
        """All stages, in their order, with those that train encoders in their place."""
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

    def _training(self, learner: _Learner, size: int | None = None) -> Stage:
        """The stage that trains the encoders; `size` in place of train_batch_size or finetune_chunk."""
        return (
            self._joint(learner, size) if self.run.features.paradigm == "end_to_end" else self._finetune(learner, size)
        )

    def _joint(self, learner: _Learner, size: int | None) -> Stage:
        """Encoder and recommender together; recomputation keeps the activations of one encoder batch at a time."""
        run, cost, again = self.run, learner.cost, learner.tuning.gradient_checkpointing
        size = size or run.batch_size
        items = self._distinct(size)
        kept = cost.bytes(min(items, run.features.encoder_batch_size) if again else items)
        kept += 2 * items * self._input_bytes() + self.recommender.step_bytes  # pictures of this step and the next
        encoding = cost.seconds(items) + (sum(c.seconds(items) for c in self.again.values()) if again else 0.0)
        seconds = self._prepared(encoding, items) + self.recommender.step_seconds * size / run.batch_size
        steps = math.ceil(run.steps * run.batch_size / size) * run.joint_epochs
        memory = Memory.of([*learner.encoders.values(), run.model], run.learner, kept)
        return Stage("train encoder and recommender", steps, seconds, memory)

    def _finetune(self, learner: _Learner, size: int | None) -> Stage:
        """The encoder alone. A batch of several chunks is encoded twice, first without gradient."""
        settings, cost = self.run.finetune, learner.cost
        batch = settings.finetune_batch_size
        chunk = min(batch, size or settings.finetune_chunk)
        first = sum(c.seconds(chunk) for c in self.again.values()) if chunk < batch else 0.0
        seconds = self._prepared((cost.seconds(chunk) + first) * batch / chunk, batch)
        steps = math.ceil(self.run.n_items * (1 - settings.finetune_validation) / batch) * settings.finetune_epochs
        memory = Memory.of(learner.encoders.values(), "adamw", cost.bytes(chunk) + batch * self._input_bytes())
        return Stage("fine-tune the encoder", steps, seconds, memory)

    def _extraction(self, contents: Mapping[Modality, float], name: str) -> list[Stage]:
        size, stages = self.run.features.encoder_batch_size, []
        for m, n in contents.items():
            if m not in self.encoding:  # its encoder brings the features
                continue
            cost = self.encoding[m]
            seconds = self._prepared(cost.seconds(size), size if m != "text" else 0)
            memory = Memory.of([self.run.encoders[m]], "sgd", cost.bytes(size))
            stages.append(Stage(name.format(m), math.ceil(n / size), seconds, replace(memory, gradients=0.0)))
        return stages

    def _options(self, learner: _Learner) -> Iterator[Option]:
        """Settings one at a time; then a smaller batch; then one with all that changes no more than rounding."""
        run, ways = self.run, lighter(self.run.tuning.model_dump())
        for way in ways:
            other = self._lighter(way)
            if other:
                yield Option(_words(way), self._training(other))
        joint = run.features.paradigm == "end_to_end"
        key, size = ("train_batch_size", run.batch_size) if joint else ("finetune_chunk", run.finetune.finetune_chunk)
        gentle = {k: v for way in ways for k, v in way.items() if k != "tune"}
        for way, other in (({}, learner), (gentle, self._lighter(gentle))):
            made = ((part, self._training(other, part)) for part in halves(size)) if other else ()
            fitting = [Option(_words({**way, key: part}), stage) for part, stage in made if self._fits(stage)]
            if fitting:
                yield fitting[0]
                return

    def _fits(self, stage: Stage) -> bool:
        return stage.memory.total <= self.run.free

    def _lighter(self, way: Mapping[str, Any]) -> _Learner | None:
        """With other settings of tuning; None where the encoder cannot have them."""
        try:
            return self._learner(self.run.tuning.model_copy(update=dict(way)))
        except MmencError:
            return None

    def _learner(self, tuning: TuningSettings) -> _Learner:
        """A copy of the encoders that learns as the settings say, and what its steps take."""
        encoders = _copies(self.run.learning)
        for encoder in {id(e): e for e in encoders.values()}.values():
            uses: set[str] = {m for m, e in encoders.items() if e is encoder}
            finetuned = self.run.features.paradigm == "finetuned"
            apply_tuning(encoder, tuning.tune, uses | {"itc"} if finetuned else uses)
            if finetuned:  # end to end, whole batches are computed again: see `_joint`
                encoder.set_gradient_checkpointing(tuning.gradient_checkpointing)
        return _Learner(encoders, self._cost(encoders, tuning.autocast, True), tuning)

    def _parts(self) -> int:
        """Encoder batches that share a backward pass."""
        if self.run.features.paradigm == "finetuned":
            return 1
        return math.ceil(self._distinct(self.run.batch_size) / self.run.features.encoder_batch_size)

    def _cost(self, encoders: Encoders, autocast: str, trains: bool) -> Cost:
        step = EncodingStep(encoders, self.run.inputs, self.run.device, autocast, self._parts() if trains else 1)
        return step.cost(step.train if trains else step.encode, PROBE)

    def _distinct(self, size: int) -> float:
        return distinct_items(self.run.batches, self.run.model.items_read, size)

    def _prepared(self, computing: float, items: float) -> float:
        """Seconds of a step whose pictures are prepared meanwhile; on a CPU that takes the computation's cores."""
        preparing = self.run.preparing * items
        return computing + preparing if self.run.device.type == "cpu" else max(computing, preparing)

    def _input_bytes(self) -> float:
        """Of one item's prepared pictures."""
        firsts = [inputs[0] for m, inputs in self.run.inputs.items() if m != "text"]
        return float(sum((one[0] if isinstance(one, tuple) else one).nbytes for one in firsts))

    def _refreshes(self) -> int:
        """How often all items are encoded again: what was refreshed for an evaluation is fresh in the next epoch."""
        run, (rule, every) = self.run, refresh_rule(self.run.live.refresh)
        if rule == "steps":
            return run.joint_epochs + run.joint_epochs * run.steps // every
        return {"epoch": run.joint_epochs, "evaluation": min(run.evaluations, run.joint_epochs), "never": 1}[rule]

    def _items(self) -> list[str]:
        run = self.run
        items, slots = self._distinct(run.batch_size), 2 * run.batch_size
        joint = [
            f"a step encodes {items:,.0f} different items, where its batch has {slots:,} places",
            f"an epoch encodes {items * run.steps:,.0f} in {run.steps:,} steps",
            f"refresh: {run.live.refresh} encodes all {run.n_items:,} again, {self._refreshes():,} times",
        ]
        later = [f"all {run.n_items:,} items are encoded once, when the encoder is fine-tuned"]
        now = [f"{m}: {n:,} of {run.n_items:,} items have to be encoded" for m, n in run.left.items()]
        return {"frozen": now, "finetuned": later, "end_to_end": joint}[run.features.paradigm]


def _copies(encoders: Encoders) -> dict[Modality, Encoder]:
    """Copies of the networks; what else encoders have, as large tokenizers, is shared."""
    of_module = vars(torch.nn.Module())
    shared = [v for e in encoders.values() for name, v in vars(e).items() if name not in of_module]
    return copy.deepcopy(dict(encoders), {id(value): value for value in shared})


def _words(way: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value).lower() for key, value in way.items()}


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
