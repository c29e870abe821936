"""BERT's word pieces: the vocabulary in a file, and texts cut into it."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.data.digests import file_digest
from mmenc_plugin.errors import WeightsError

FILE = "vocab.txt"
HUB_ID = "google-bert/bert-base-uncased"
HUB_NAMES = (HUB_ID, "bert-base-uncased")  # the same, under its name and the one it had
SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"  # of the hub's file, 30522 lines
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


class WordPieces:
    """Lower-cased, accents stripped, longest piece first (Devlin et al. 2019, as bert-base-uncased).

    Args:
        path: a vocabulary, one piece a line.
        size: how many pieces the network has embeddings for.
        max_tokens: of a text, [CLS] and [SEP] included; what is longer is cut.

    Raises:
        WeightsError: the vocabulary has another size, holds a piece twice, or lacks a special one.
    """

    def __init__(self, path: Path, size: int, max_tokens: int) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.sha256 = file_digest(path)
        pieces = self.text.removesuffix("\n").split("\n")
        vocabulary = {piece: row for row, piece in enumerate(pieces)}
        absent = [piece for piece in SPECIAL if piece not in vocabulary]
        if len(pieces) != size or len(vocabulary) != size or absent:
            what = f"lacks {', '.join(absent)}" if absent else f"has {len(pieces)} pieces, {len(vocabulary)} different"
            raise WeightsError(
                f"the vocabulary {path} {what}, and the network has {size} word embeddings. Bring the {FILE} that the "
                f"checkpoint was trained with (of the published ones: {HUB_ID})."
            )
        self._tokenizer = _tokenizer(vocabulary, max_tokens)

    def __call__(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts -> `ids` [B, L] int64, padded to the longest, and `mask` [B, L], True where there is no padding."""
        encodings = self._tokenizer.encode_batch(list(texts))
        return {
            "ids": torch.tensor([encoding.ids for encoding in encodings]),
            "mask": torch.tensor([encoding.attention_mask for encoding in encodings]).bool(),
        }

    def counts(self, texts: Sequence[str]) -> Tensor:
        """Pieces of each text before any is cut, [CLS] and [SEP] included: [B] int64."""
        encodings = self._tokenizer.encode_batch(list(texts))
        cut_off = ([sum(part.attention_mask) - 2 for part in encoding.overflowing] for encoding in encodings)
        return torch.tensor([sum(e.attention_mask) + sum(more) for e, more in zip(encodings, cut_off, strict=True)])


def _tokenizer(vocabulary: dict[str, int], max_tokens: int) -> Any:
    tokenizer = importlib.import_module("tokenizers").BertWordPieceTokenizer(vocabulary, lowercase=True)
    tokenizer.enable_truncation(max_tokens)
    tokenizer.enable_padding(pad_id=vocabulary["[PAD]"])
    return tokenizer


def find_vocabulary(folder: Path | None) -> Path:
    """The vocabulary of a published checkpoint: beside it, else bert-base-uncased's from the Hugging Face cache.

    Args:
        folder: where the checkpoint lies, or None for random weights.

    Raises:
        WeightsError: it is in none of these places, or the cached one is not what VLMo was trained with.
    """
    if folder is not None and (folder / FILE).is_file():
        return folder / FILE
    path = _from_cache(folder)
    if file_digest(path) != SHA256:
        raise WeightsError(
            f"{path} is not the vocabulary that VLMo was trained with (sha256 {SHA256[:12]}... was expected). Remove "
            f"it, and fetch it anew with: hf download {HUB_ID} {FILE}"
        )
    return path


def _from_cache(folder: Path | None) -> Path:
    hub = importlib.import_module("huggingface_hub")
    for name in HUB_NAMES:
        if isinstance(cached := hub.try_to_load_from_cache(name, FILE), str):
            return Path(cached)
    beside = f" Or put the file beside the checkpoint, as {folder / FILE}." if folder else ""
    raise WeightsError(
        f"VLMo's vocabulary, the {FILE} of {HUB_ID}, is neither beside a checkpoint nor in the Hugging Face cache, and "
        f"nothing is downloaded that the encoder's name does not say. Fetch it with: hf download {HUB_ID} {FILE} (on a "
        f"machine without a network, bring the cache, HF_HOME, from one that has it).{beside}"
    )
