"""Closed, typed settings: each option is one field with its type, default, bound and sentence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mmenc_plugin.errors import SettingsError, nearest
from mmenc_plugin.rules import refresh_rule as refresh_rule
from mmenc_plugin.rules import tuning_scope as tuning_scope
from mmenc_plugin.types import Modality


class Settings(BaseModel):
    """Base of all settings: frozen, and closed to keys that no field names."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def _as_list(value: Any) -> Any:
    """A list may be written as one name, or (on a command line) as YAML."""
    if isinstance(value, str):
        value = yaml.safe_load(value) if value.startswith("[") else [value]
    return list(value) if isinstance(value, tuple) else value


def _as_mapping(value: Any) -> Any:
    """A mapping may be written (on a command line) as YAML."""
    return yaml.safe_load(value) if isinstance(value, str) and value.startswith("{") else value


def _is_scope(tune: str) -> str:
    try:
        tuning_scope(tune)
    except SettingsError as error:
        raise ValueError(str(error).partition(": ")[2]) from None  # `_sentence` says what it is of
    return tune


def _as_words(value: Any) -> Any:
    """A list of names may be written as one text, with commas between them."""
    if isinstance(value, str) and not value.startswith("["):
        return [word.strip() for word in value.split(",") if word.strip()]
    return _as_list(value)


def _is_rule(refresh: str) -> str:
    try:
        refresh_rule(refresh)
    except SettingsError as error:
        raise ValueError(str(error)) from None
    return refresh


Names = Annotated[list[str], BeforeValidator(_as_list)]
Slice = Literal["cold", "warm", "tail", "missing-image", "missing-text", "missing-fused"]


class FeatureSettings(Settings):
    """Where the items' pictures and texts are, and which encoder turns them into features."""

    encoder: Annotated[str | dict[Modality, str], BeforeValidator(_as_mapping)] = Field(
        "classic",
        description="the encoder's URI, family:architecture/weights, or one for each modality: "
        "{image: openclip:ViT-B-32/openai, text: sbert:all-MiniLM-L6-v2}",
    )
    paradigm: Literal["frozen", "finetuned", "end_to_end"] = Field(
        "frozen",
        description="frozen: features are computed once; finetuned: by an encoder that is trained on the items before; "
        "end_to_end: by an encoder that is trained with the recommender",
    )
    modalities: Annotated[list[Modality], BeforeValidator(_as_list)] = Field(
        default=["image", "text"],
        min_length=1,
        description="which of image, text and fused (a joint encoder's vector of both) are used",
    )
    item_text: Names = Field(["title", "description"], min_length=1, description=".item columns, joined in this order")
    item_image: str = Field("image", description=".item column with the file name below image_dir")
    image_dir: str = Field("images", description="folder of the pictures, below the data set's or absolute")
    missing: Literal["mean", "neighbours", "zeros", "error"] = Field(
        "mean",
        description="what an item without the modality gets. mean: of all others; neighbours: the mean of the 10 that "
        "share most users with it in the training part, of all where none does; error: stops the run",
    )
    feature_scaling: Literal["standard", "l2", "none"] = Field(
        "standard",
        description="standard: rows of mean zero, of unit length on average; l2: every row of unit length; none: raw",
    )
    feature_dir: str = Field("features", description="folder of the feature store")
    encoder_batch_size: int = Field(32, ge=1, le=65536, description="items encoded at once")
    encoder_precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="of the encoder's weights; bfloat16 is about twice as fast where the processor knows it"
    )
    encoder_preparation: Literal["exact", "fast"] = Field(
        "exact",
        description="of pictures. exact: the pixels of the encoder's own library; fast: a quicker decoder and resize",
    )
    encoder_workers: int = Field(0, ge=0, le=1024, description="threads that prepare pictures; 0 for one a core")
    picture_cache: str = Field(
        "", description="folder in which prepared pictures are kept for other encoders; empty for none"
    )

    def uri(self, modality: Modality) -> str:
        """The encoder URI of one modality.

        Raises:
            SettingsError: `encoder` is a mapping without that modality.
        """
        if isinstance(self.encoder, str):
            return self.encoder
        if modality not in self.encoder:
            raise SettingsError(
                f"encoder names {sorted(self.encoder)} but modalities asks for '{modality}'. "
                f"Add an encoder for '{modality}' or take it out of modalities."
            )
        return self.encoder[modality]


class TuningSettings(Settings):
    """What of an encoder is trained, and how; for paradigm: finetuned and end_to_end."""

    tune: Annotated[str, AfterValidator(_is_scope)] = Field(
        "full",
        description="full: all of the encoder; head: the last norm, the projection and the temperature; top:N: the "
        "last N blocks of each tower, and the head; lora:R: adapters of rank R beside the linear layers of all blocks "
        "(these want a learning rate some ten times as large)",
    )
    encoder_learning_rate: float = Field(1e-5, gt=0, description="of the encoder's parameters that lie deepest")
    encoder_weight_decay: float = Field(
        0.05, ge=0, description="of the encoder's matrices; norms, biases and temperatures have none"
    )
    layer_decay: float = Field(
        1.0, gt=0, le=1, description="factor of the learning rate from each block of the encoder to the one before it"
    )
    warmup: float = Field(
        0.05, ge=0, le=1, description="share of the steps in which the encoder's learning rate rises from zero"
    )
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "cosine", description="of the encoder's learning rate behind the warm-up; linear and cosine end at zero"
    )
    gradient_checkpointing: bool = Field(
        False, description="compute the inside of blocks anew in the backward pass: a third more time, much less memory"
    )
    autocast: Literal["none", "bfloat16"] = Field(
        "none", description="precision that an encoder computes in while it is trained; its weights stay as they are"
    )


Objective = Literal["itc", "itm", "mlm", "bought"]


class FinetuneSettings(Settings):
    """How an encoder is fine-tuned on the items' pairs of picture and text; for paradigm: finetuned."""

    finetune_objectives: Annotated[list[Objective], BeforeValidator(_as_list)] = Field(
        default=["itc"],
        min_length=1,
        description="itc: contrast of pictures and texts; itm: matching with hard negatives, and mlm: masked words "
        "(both of encoders that see picture and text together, as VLMo); bought: contrast of items that users of the "
        "training part took together",
    )
    finetune_epochs: int = Field(10, ge=1, le=100000, description="passes over the pairs, at most")
    finetune_batch_size: int = Field(256, ge=2, le=1048576, description="pairs that are contrasted with each other")
    finetune_chunk: int = Field(
        32, ge=1, le=65536, description="pairs encoded at once, by each process; bounds the memory, not the result"
    )
    finetune_validation: float = Field(
        0.1, ge=0, le=0.5, description="share of the pairs that is held out, none of whose pictures or texts is learned"
    )
    finetune_select: Literal["loss", "recall"] = Field(
        "loss", description="which epoch is kept: that of the least validation loss, or of the best R@1 both ways"
    )
    finetune_patience: int = Field(3, ge=1, description="epochs without a better one before training stops")
    finetune_dir: str = Field(
        "finetuned", description="folder of fine-tuned encoders, each under the key of its making"
    )


class LiveSettings(Settings):
    """How an encoder is trained with a recommender; for paradigm: end_to_end."""

    warm_start_epochs: int = Field(
        0, ge=0, description="first epochs in which the recommender learns alone, as fast as from frozen features"
    )
    refresh: Annotated[str, AfterValidator(_is_rule)] = Field(
        "epoch",
        description="when items that the batches did not hold are encoded again. epoch: before each epoch and "
        "evaluation; evaluation: before evaluations; steps:N: after every N steps too; never: before the test alone, "
        "so that the best epoch is chosen by rows of different ages",
    )
    itc_weight: float = Field(
        0.0,
        ge=0,
        description="weight of the image-text contrastive loss of the batch's items beside the recommendation loss; "
        "needs image and text of one encoder",
    )


class ResumeSettings(Settings):
    """What a run keeps to go on after it was stopped."""

    resume_dir: str = Field(
        "",
        description="folder of a checkpoint after each epoch; a run that finds one there goes on from it and ends as "
        "if it had not been stopped. Empty for none",
    )


class RankingSettings(Settings):
    """How an evaluation ranks all items, and which implementation of the kernels computes."""

    fused_ranking: bool = Field(
        True,
        description="full ranking without the matrix of users and items, with RecBole's values of the metrics; "
        "for RecBole's own models off unless it is set",
    )
    ranking_mask: Literal["seen", "train"] = Field(
        "seen",
        description="items that an evaluation does not rank for a user. seen: those of the training part, and in the "
        "test those of the validation part too (RecBole); train: those of the training part alone (MMRec)",
    )
    scorer: Literal["auto", "triton", "cpu", "reference"] = Field(
        "auto",
        description="implementation of the kernels. auto: triton where it can run, else cpu, which is blockwise torch "
        "and runs on any device; reference: the mathematics, with whole matrices",
    )
    eval_slices: Annotated[list[Slice], BeforeValidator(_as_words)] = Field(
        default=[],
        description="kinds of items for which the test is evaluated once more, each by itself. cold: without a "
        "training interaction; warm: the others; tail: the least popular that hold 20 % of the training interactions; "
        "missing-image, missing-text, missing-fused: without that modality",
    )


class ModelSettings(Settings):
    """What every model has."""

    embedding_size: int = Field(64, ge=1, le=65536, description="width of user and item embeddings")
    reg_weight: float = Field(1e-2, ge=0, description="weight of the L2 penalty on the batch's embeddings")
    loss_type: Literal["BPR", "in_batch", "CE"] = Field(
        "BPR",
        description="main loss. BPR: a positive before its negative; in_batch: a softmax over the batch's positives, "
        "corrected for popularity; CE: a softmax over all items; what a user took never counts against another",
    )
    softmax_temperature: float = Field(
        1.0, gt=0, le=1e6, description="of in_batch and CE, which divide the scores by it: smaller is sharper"
    )


class OwnLossSettings(ModelSettings):
    """What models have whose main loss is one of their own."""

    loss_type: Literal["BPR"] = Field("BPR", description="not read: the model's main loss is its own")


def validate(kind: type[S], mapping: Mapping[str, Any]) -> S:
    """`kind` made from the keys of `mapping` that it has; other keys are left alone.

    Raises:
        SettingsError: a value has the wrong type or is out of bounds.
    """
    mine = {key: value for key, value in mapping.items() if key in kind.model_fields}
    try:
        return kind.model_validate(mine)
    except ValidationError as error:
        raise SettingsError("; ".join(_sentence(kind, e) for e in error.errors())) from None


def check_keys(given: Iterable[str], known: Iterable[str], where: str) -> None:
    """Stop at keys that nothing knows.

    Raises:
        SettingsError: names each unknown key and the nearest known one.
    """
    names = set(known)
    unknown = [key for key in given if key not in names]
    if unknown:
        raise SettingsError("; ".join(f"no setting named '{key}' ({where}).{nearest(key, names)}" for key in unknown))


def _sentence(kind: type[Settings], error: Any) -> str:
    path = ".".join(str(part) for part in error["loc"])
    field = kind.model_fields.get(str(error["loc"][0])) if error["loc"] else None
    meaning = f" ({path}: {field.description})" if field and field.description else ""
    hint = ""
    if error["type"] == "literal_error" and isinstance(error["input"], str):
        options = str(error.get("ctx", {}).get("expected", "")).replace("'", "").replace(" or ", ", ").split(", ")
        hint = nearest(error["input"], options)
    told = error["msg"].removeprefix("Value error, ")
    stop = "" if told.endswith(("?", ".")) else "."
    return f"{path} is {error['input']!r}: {told[0].lower()}{told[1:]}{stop}{hint}{meaning}"
