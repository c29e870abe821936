"""Masked words of VLMo's texts: whole words are hidden, and the network says what stood there.

Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding", NAACL 2019, and the
whole-word form that its authors published later.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmenc_plugin.encoders._vlmo.vocabulary import SPECIAL, WordPieces

SHARE = 0.15  # of a text's words
KEPT = -100  # the target of a place that is not asked for


@dataclass(frozen=True)
class Masked:
    """Texts with words hidden.

    Attributes:
        ids: [B, L] word pieces, some of them replaced.
        targets: [B, L] what stood there, `KEPT` where nothing is asked.
    """

    ids: Tensor
    targets: Tensor


class WordMasks:
    """Chooses the words of texts that are hidden: each with probability 0.15, a word with all of its pieces or none.

    Of the pieces chosen 80 % become [MASK], 10 % any other piece, 10 % stay. A text whose words all stay by chance has
    one hidden, so that every text teaches something.

    Args:
        words: the vocabulary.
    """

    def __init__(self, words: WordPieces) -> None:
        pieces = words.text.removesuffix("\n").split("\n")
        self._goes_on = np.array([piece.startswith("##") for piece in pieces])
        special = {piece: row for row, piece in enumerate(pieces) if piece in SPECIAL}
        self._mask = special["[MASK]"]
        # [UNK] stands for a word that nobody could name.
        self._special = np.isin(np.arange(len(pieces)), list(special.values()))
        (self._any,) = np.nonzero(~self._special)

    def __call__(self, ids: Tensor, seeds: list[tuple[int, ...]]) -> Masked:
        """Hide words.

        Args:
            ids: [B, L] word pieces, on the CPU.
            seeds: of each text, so that what is hidden does not depend on the batch.
        """
        hidden, targets = ids.numpy().copy(), np.full(ids.shape, KEPT, dtype=np.int64)
        for row, seed in enumerate(seeds):
            random = np.random.default_rng(seed)
            chosen = self._chosen(hidden[row], random)
            targets[row, chosen] = hidden[row, chosen]
            hidden[row, chosen] = self._replaced(hidden[row, chosen], random)
        return Masked(torch.from_numpy(hidden), torch.from_numpy(targets))

    def words(self, ids: np.ndarray) -> list[np.ndarray]:
        """The places [n] of the pieces of each word of a text [L]; special pieces are no words."""
        (places,) = np.nonzero(~self._special[ids])
        follows = self._goes_on[ids[places]] & np.isin(places - 1, places)
        starts = np.nonzero(~follows)[0]
        return np.split(places, starts[1:]) if len(places) else []

    def _chosen(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        words = self.words(ids)
        if not words:
            return np.zeros(0, dtype=np.int64)
        taken = random.random(len(words)) < SHARE
        if not taken.any():
            taken[random.integers(len(words))] = True
        return np.concatenate([word for word, take in zip(words, taken, strict=True) if take])

    def _replaced(self, ids: np.ndarray, random: np.random.Generator) -> np.ndarray:
        way, other = random.random(len(ids)), random.choice(self._any, len(ids))
        return np.where(way < 0.8, self._mask, np.where(way < 0.9, other, ids))
