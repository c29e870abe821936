"""Recommendations of a model that RecBole has trained and saved."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmenc_plugin.data import read_items
from mmenc_plugin.data.atomic import read_header
from mmenc_plugin.errors import CheckpointError, DataError, SettingsError, nearest, some
from mmenc_plugin.hosts.recbole.config import feature_settings
from mmenc_plugin.hosts.recbole.factors import Factors, factors_of
from mmenc_plugin.kernels import score_topk
from mmenc_plugin.kernels.checks import CSR
from mmenc_plugin.kernels.csr import rows_of
from mmenc_plugin.types import ItemTable

_USERS = 4096  # ranked at once


@dataclass(frozen=True)
class Recommendations:
    """The k best items of some users, by their ids.

    Attributes:
        users: [B] user ids.
        items: for each of them at most k item ids, best first.
        scores: likewise.
    """

    users: list[str]
    items: list[list[str]]
    scores: list[list[float]]


class SavedRun:
    """A checkpoint of RecBole, with its data set and what each user took.

    Args:
        path: the `.pth` file, or a folder, whose newest one is taken.

    Raises:
        DataError: there is no such file, or the data set is gone.
        CheckpointError: the file is no checkpoint of RecBole.
    """

    def __init__(self, path: Path) -> None:
        from recbole.quick_start import load_data_and_model

        self.path = _checkpoint(path)
        with _quietly():
            self.config, self.model, self.dataset, *_ = load_data_and_model(str(self.path))
        self.model.eval()
        self.users: list[str] = self.dataset.field2id_token[self.dataset.uid_field][1:].tolist()
        self._item_tokens = self.dataset.field2id_token[self.dataset.iid_field]
        self._taken = self._all_taken()

    @property
    def name(self) -> str:
        """Model and data set, for a heading."""
        return f"{self.config['model']} on {self.config['dataset']}"

    def taken(self, user: str) -> list[str]:
        """The item ids that the user took, the last ones first where the data set has times."""
        row = self.dataset.token2id(self.dataset.uid_field, user)
        inter = self.dataset.inter_feat
        rows = (inter[self.dataset.uid_field] == row).nonzero()[:, 0]
        if self.dataset.time_field in inter:
            rows = rows[inter[self.dataset.time_field][rows].argsort(descending=True, stable=True)]
        items = dict.fromkeys(inter[self.dataset.iid_field][rows].tolist())
        return [str(self._item_tokens[item]) for item in items]

    def recommend(self, users: Sequence[str], k: int, again: bool = False) -> Iterator[Recommendations]:
        """The k best items of each user, some thousands of users at a time.

        Args:
            users: user ids.
            k: items for each, at least 1.
            again: whether an item that the user took, in any part of the split, may come.

        Raises:
            SettingsError: a user that the data set does not have, or a model that has no embeddings to rank with.
        """
        return self._blocks(users, self._rows(users), k, again)

    def _blocks(self, users: Sequence[str], rows: Tensor, k: int, again: bool) -> Iterator[Recommendations]:
        with torch.no_grad():
            factors = self._factors()
            for start in range(0, len(rows), _USERS):
                block = rows[start : start + _USERS]
                taken = self._padding_only(len(block)) if again else rows_of(self._taken, block)
                device = factors.items.device
                exclude = taken[0].to(device), taken[1].to(device)
                top = score_topk(factors.users(block.to(device)), factors.items, k, factors.bias, exclude)
                yield self._named(users[start : start + _USERS], top.ids.cpu(), top.scores.cpu())

    def items(self) -> ItemTable:
        """Texts and pictures of the items, as far as the data set has them."""
        folder, settings = Path(self.config["data_path"]), feature_settings(self.config)
        path, separator = folder / f"{self.config['dataset']}.item", self.config["field_separator"]
        if not path.is_file():
            return ItemTable([], [], [], folder)
        columns = read_header(path, separator)
        return read_items(
            path,
            id_column=self.config["ITEM_ID_FIELD"],
            text_columns=[column for column in settings.item_text if column in columns],
            image_column=settings.item_image if settings.item_image in columns else None,
            image_dir=folder / settings.image_dir,
            separator=separator,
        )

    def _rows(self, users: Sequence[str]) -> Tensor:
        known = self.dataset.field2token_id[self.dataset.uid_field]
        unknown = [user for user in users if user not in known]
        if unknown:
            raise SettingsError(
                f"{len(unknown)} of {len(users)} users are not in {self.config['dataset']} ({some(unknown)})."
                f"{nearest(unknown[0], self.users)} A model can rank only for users that it was trained on."
            )
        return torch.tensor([known[user] for user in users], dtype=torch.int64)

    def _factors(self) -> Factors:
        first = self.dataset.join(_interaction({self.dataset.uid_field: torch.tensor([1])}))
        found = factors_of(self.model, first)
        if isinstance(found, str):
            raise SettingsError(f"{self.path}: {found}. Recommendations are made for those alone.")
        return found

    def _all_taken(self) -> CSR:
        """Per user row what they took, and the padding item 0."""
        n_users, n_items = self.dataset.user_num, self.dataset.item_num
        inter = self.dataset.inter_feat
        pairs = inter[self.dataset.uid_field] * n_items + inter[self.dataset.iid_field]
        pairs = torch.unique(torch.cat([pairs, torch.arange(n_users) * n_items]))
        return torch.searchsorted(pairs, torch.arange(n_users + 1) * n_items), pairs % n_items

    @staticmethod
    def _padding_only(n: int) -> CSR:
        return torch.arange(n + 1), torch.zeros(n, dtype=torch.int64)

    def _named(self, users: Sequence[str], ids: Tensor, scores: Tensor) -> Recommendations:
        kept = (ids >= 0).sum(1).tolist()
        names = [self._item_tokens[row[:n]].tolist() for row, n in zip(ids.numpy(), kept, strict=True)]
        return Recommendations(list(users), names, [row[:n] for row, n in zip(scores.tolist(), kept, strict=True)])


@contextmanager
def _quietly() -> Iterator[None]:
    """Without RecBole's list of all settings."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _interaction(columns: dict[str, Tensor]) -> Any:
    from recbole.data.interaction import Interaction

    return Interaction(columns)


def _checkpoint(path: Path) -> Path:
    if path.is_dir():
        found = sorted(path.glob("*.pth"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise DataError(f"{path} holds no checkpoint (*.pth). Train first, e.g. with mmenc run, or name another.")
        return found[-1]
    if not path.is_file():
        raise DataError(f"{path} does not exist. Name a checkpoint, as RecBole writes to its checkpoint_dir (saved/).")
    if path.suffix != ".pth":
        raise CheckpointError(f"{path} is no checkpoint of RecBole, whose names end in .pth.")
    return path
