"""sbert: text encoders of sentence-transformers, by hub id or local folder.

Reimers and Gurevych 2019, "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks".
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.encoders._depths import Place, Tower
from mmenc_plugin.encoders._weights import (
    check_keys,
    check_vocabulary,
    is_local,
    licence_of,
    not_loaded,
    repeatable,
    tokenizer_digest,
    weights_digest,
    without_bars,
)
from mmenc_plugin.encoders.base import Encoder, EncoderSpec, Tokens, register
from mmenc_plugin.errors import SettingsError, WeightsError
from mmenc_plugin.types import Citation


@register
class SentenceBert(Encoder):
    """A sentence-transformers model, with its own tokenizer, pooling and normalisation."""

    family = "sbert"
    modalities = frozenset({"text"})
    example = "sbert:all-MiniLM-L6-v2"
    extra = "sbert"
    citation = Citation(
        "Sentence-BERT: Sentence Embeddings using Siamese BERT-Networks",
        "Reimers and Gurevych",
        2019,
        "https://arxiv.org/abs/1908.10084",
    )
    towers = (Tower("text", r"", frozenset({"text", "itc"})),)

    def __init__(self, model: Any, weights: str) -> None:
        super().__init__()
        self.model = model
        self._prompt: str = (model.prompts or {}).get(model.default_prompt_name or "") or ""
        self.spec = EncoderSpec(
            family="sbert",
            architecture=" > ".join(type(module).__name__ for module in model),
            weights=weights,
            weights_sha256=weights_digest(model),
            width={"text": _width(model)},
            preprocessing={
                "text": {
                    "max_tokens": _limit(model.max_seq_length),
                    "tokenizer_sha256": tokenizer_digest(model.tokenizer),
                    "prompt": self._prompt,
                    "modules": [str(module) for module in list(model)[1:]],
                }
            },
            licence=licence_of(weights if "/" in weights or is_local(weights) else f"sentence-transformers/{weights}"),
        )

    @classmethod
    def check(cls, rest: str) -> None:
        """A hub id, or a local folder that exists."""
        cls.library("sentence_transformers")
        if not rest:
            raise SettingsError("encoder 'sbert:' names no model. Write sbert:<hub id or folder>, e.g. " + cls.example)
        folder = Path(rest).expanduser()
        if is_local(rest) and not (folder / "modules.json").is_file() and not (folder / "config.json").is_file():
            raise WeightsError(f"'sbert:{rest}': {folder} is not a folder of a sentence-transformers model.")

    @classmethod
    def from_rest(cls, rest: str) -> SentenceBert:
        """See the base class."""
        sentence_transformers = cls.library("sentence_transformers")
        name, uri = str(Path(rest).expanduser()) if is_local(rest) else rest, f"sbert:{rest}"
        try:
            with repeatable(), without_bars(), _reports() as reports:
                model = sentence_transformers.SentenceTransformer(name, device="cpu")
        except Exception as error:  # hub, file and torch errors alike
            by_hand = "save the model elsewhere with SentenceTransformer(...).save(folder) and name it: "
            raise not_loaded(uri, error, local=is_local(rest), by_hand=by_hand + "sbert:/path/to/folder") from error
        check_keys(uri, _left_random(reports), [])
        table = getattr(getattr(model[0], "auto_model", None), "get_input_embeddings", lambda: None)()
        if table is not None:
            check_vocabulary(uri, max(model.tokenizer.get_vocab().values()), table.num_embeddings)
        return cls(model, rest)

    def tokenize(self, texts: Sequence[str]) -> Tokens:
        """Texts, after the model's default prompt -> `input_ids` and `attention_mask` [B, L], padded to the longest."""
        prepare = getattr(self.model, "preprocess", None) or self.model.tokenize  # renamed in version 6
        tokens = prepare([self._prompt + text for text in texts])
        return {name: value for name, value in tokens.items() if isinstance(value, Tensor)}

    def encode_text(self, tokens: Tokens) -> Tensor:
        """Tokens [B, L] -> [B, D]."""
        return self.model(dict(tokens))["sentence_embedding"]  # type: ignore[no-any-return]

    def token_counts(self, texts: Sequence[str]) -> Tensor | None:
        """See the base class; the default prompt counts too."""
        tokenizer = self.model.tokenizer
        if not callable(tokenizer):
            return None
        whole = [self._prompt + text for text in texts]
        counts = [len(tokenizer(text, truncation=False, verbose=False)["input_ids"]) for text in whole]
        return torch.tensor(counts, dtype=torch.int64)

    def write(self, folder: Path) -> None:
        """As sentence-transformers saves it."""
        self.model.save(str(folder), create_model_card=False)

    def place(self, name: str, place: Place) -> Place:
        """See the base class."""
        # The poolings of sentence-transformers read the tokens, and leave the transformer's own pooler idle.
        return replace(place, uses=frozenset()) if ".pooler." in name else place


def _limit(tokens: float | None) -> int:
    """The most tokens of a text, 0 for a model that has no limit."""
    return int(tokens) if tokens is not None and tokens < 1e9 else 0


def _width(model: Any) -> int:
    name = (
        "get_embedding_dimension" if hasattr(model, "get_embedding_dimension") else "get_sentence_embedding_dimension"
    )
    return int(getattr(model, name)())


@contextmanager
def _reports() -> Iterator[list[str]]:
    """What transformers has to say on the weights that it loads, kept from the screen."""
    kept: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            kept.append(record.getMessage())

    logger = logging.getLogger("transformers")
    handlers, level, propagate = logger.handlers, logger.level, logger.propagate
    logger.handlers, logger.propagate = [Keep()], False
    logger.setLevel(logging.WARNING)
    try:
        yield kept
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def _left_random(reports: Sequence[str]) -> list[str]:
    """The weights that the files lack; but for poolers, which many models lack and none of these uses."""
    text = "\n".join(reports)
    names = re.findall(r"^(\S.*?) +\| +(?:\x1b\[[\d;]*m)?MISSING", text, re.MULTILINE)  # transformers 5
    for listed in re.findall(r"newly initialized: \[(.*?)\]", text):  # transformers 4
        names += re.findall(r"'(.*?)'", listed)
    return [name for name in names if "pooler" not in name]
