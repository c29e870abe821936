"""Features that an encoder gives anew in every training step, so that the recommender's gradient reaches it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from mmenc_plugin.encoders import Encoder, state_faults
from mmenc_plugin.errors import CheckpointError, SettingsError
from mmenc_plugin.features import together
from mmenc_plugin.features.ahead import Ahead
from mmenc_plugin.features.align import AlignedFeatures, FrozenFeatures
from mmenc_plugin.features.contents import read_contents
from mmenc_plugin.features.live_encoding import Encoding, LiveOptions
from mmenc_plugin.features.live_table import LiveTable, Pairs
from mmenc_plugin.features.pictures import picture_threads
from mmenc_plugin.types import ItemTable, Modality


class LiveFeatures(nn.Module):
    """Encoders and a table of their last outputs for each modality.

    A training step begins with `begin_step(items)`, which encodes the step's different contents once, with gradient;
    `rows` and `table` have them in their places, and for all other items what the encoder gave when they were last
    encoded (stale rows, without gradient). `refresh` encodes everything again; switching to evaluation does so where
    anything is stale. With several processes each encodes a share of all processes' items and gets the other outputs,
    with the gradient they have there.

    Encoders stay in evaluation mode, so that an item's output depends on nothing but the item. An encoder without a
    parameter that is trained leaves its modality as it is. The state of the module is what is trained, and no more.

    Args:
        items: I items in the host's row order (`align.arrange`).
        tables: what the encoders give before they are trained, unscaled, in the same order; it also says which items
            have the modality.
        encoders: of each modality; the same object for modalities of one encoder.
        store: folder in which digests of pictures are remembered.
        options: how they are made.
        pairs: users and items [N] of the training part, for missing: neighbours.

    Raises:
        SettingsError: no encoder has a parameter that is trained.
    """

    frozen = False

    def __init__(
        self,
        items: ItemTable,
        tables: Mapping[Modality, AlignedFeatures],
        encoders: Mapping[Modality, Encoder],
        store: Path,
        options: LiveOptions | None = None,
        pairs: Pairs | None = None,
    ) -> None:
        super().__init__()
        self.items, self.options, self.modalities = items, options or LiveOptions(), tuple(tables)
        self.encoders = nn.ModuleList({id(encoder): encoder for encoder in encoders.values()}.values())
        self._encoder = dict(encoders)
        self.learning = tuple(m for m in self.modalities if any(p.requires_grad for p in encoders[m].parameters()))
        if not self.learning:
            names = " and ".join(sorted({f"{e.spec.family}:{e.spec.architecture}" for e in encoders.values()}))
            raise SettingsError(f"{names} has no parameter that is trained. Take another encoder, or paradigm: frozen.")
        self.tables = nn.ModuleDict()
        self._encoding: dict[Modality, Encoding] = {}
        self._stack = ExitStack()
        self._threads: ThreadPoolExecutor | None = None
        for m, table in tables.items():
            self.tables[m] = self._table(m, table, store, pairs)
        self.version = 0
        self.step_items = torch.zeros(0, dtype=torch.int64)  # the different items of the step, in all processes
        self.held = False  # whether steps train no encoder
        self.refreshes = True  # whether an evaluation encodes what is stale
        self._stale = False
        self.encoders.eval()

    def _table(self, modality: Modality, raw: AlignedFeatures, store: Path, pairs: Pairs | None) -> LiveTable:
        options = self.options
        if modality not in self.learning:
            number = torch.where(raw.present, raw.present.cumsum(0) - 1, -1)
            return LiveTable(raw, number, options.scaling, options.missing, options.padding_row, pairs)
        contents = read_contents(self.items, modality, store, options.show_progress)
        contents.digests[~raw.present.numpy()] = 0  # a picture that is there and cannot be read
        source = Ahead(self.items, self._encoder[modality], modality, contents, self.options.pictures, self._pool)
        self._encoding[modality] = Encoding(self._encoder[modality], source, options)
        number = torch.from_numpy(contents.distinct()[1])
        return LiveTable(raw, number, options.scaling, options.missing, options.padding_row, pairs)

    def width(self, modality: Modality) -> int:
        """D of the modality."""
        return int(self.live_table(modality).values.shape[1])

    def table(self, modality: Modality) -> Tensor:
        """All items' features [I, D]."""
        return self.live_table(modality).table()

    def rows(self, modality: Modality, items: Tensor) -> Tensor:
        """Features [B, D] of the item rows [B]."""
        return self.live_table(modality).rows(items)

    def present(self, modality: Modality) -> Tensor:
        """[I] bool: the items that have the modality."""
        return self.live_table(modality).has

    def live_table(self, modality: Modality) -> LiveTable:
        """The table of a modality."""
        return cast(LiveTable, self.tables[modality])

    def encoder(self, modality: Modality) -> Encoder:
        """The encoder of a modality."""
        return self._encoder[modality]

    @property
    def stale(self) -> bool:
        """Whether a row may be of an encoder that has been trained since."""
        return self._stale

    def prepare(self, items: Tensor) -> None:
        """Start to prepare the pictures of a later step's item rows [N]."""
        if self.held or together.n_processes() > 1:  # whose items other processes have a share of
            return
        for m in self.learning:
            table = self.live_table(m)
            self._encoding[m].source.begin(table.first[table.contents(items.to(table.first.device))].tolist())

    def begin_step(self, items: Tensor) -> None:
        """Encode the items of a training step, with gradient.

        Args:
            items: [N] item rows; a row may occur several times. Those without a modality, the padding row among
                them, are left out there.

        Raises:
            MediaError: a picture that cannot be read any more.
        """
        if self.held:
            return
        self.step_items = items = torch.unique(together.everyones(items))
        wanted = {m: self.live_table(m).contents(items) for m in self.learning}
        outputs = self._encode(wanted)
        for m, contents in wanted.items():
            self.live_table(m).put(contents, outputs[m])
        self.version += 1
        self._stale = True

    def end_step(self) -> None:
        """Let go of what the step encoded with gradient."""
        for m in self.modalities:
            self.live_table(m).forget()

    def tie(self) -> Tensor:
        """Zero, with a path to everything that this step has encoded.

        Of several processes each adds it to its loss: they wait for one another in the backward pass.
        """
        fresh = [table.fresh for m in self.modalities if (table := self.live_table(m)).fresh is not None]
        return sum((rows.sum() * 0 for rows in fresh), start=self.live_table(self.modalities[0]).values.new_zeros(()))

    @torch.no_grad()
    def refresh(self) -> None:
        """Encode the contents of all items, unless nothing was trained since that was last done.

        Raises:
            EncoderOutputError: a feature that is not finite.
            MediaError: a picture that cannot be read any more.
        """
        if not self._stale:
            return
        for m in self.learning:
            table = self.live_table(m)
            wanted = torch.arange(table.n_contents, device=table.first.device)
            table.fill(self._encode({m: wanted}, f"encode {m}")[m])
        self.version += 1
        self._stale = False

    def train(self, mode: bool = True) -> LiveFeatures:
        """Switch mode; encoders stay in evaluation mode, and an evaluation begins with a `refresh`."""
        super().train(mode)
        self.encoders.eval()
        if not mode:
            self.end_step()
            if self.refreshes:
                self.refresh()
        return self

    def close(self) -> None:
        """Let go of threads and caches."""
        self._stack.close()
        self._threads = None
        for encoding in self._encoding.values():
            encoding.source.close()

    def _encode(self, wanted: Mapping[Modality, Tensor], told: str = "") -> dict[Modality, Tensor]:
        """The outputs [n, D] of contents [n] of some modalities, each process a share of them."""
        shares = []
        for m, contents in wanted.items():
            table = self.live_table(m)
            rows = table.first[together.share(contents)].tolist()
            shares.append(self._encoding[m].outputs(rows, told).to(table.values))
        everyones = together.gather(shares, [len(contents) for contents in wanted.values()])
        return dict(zip(wanted, everyones, strict=True))

    def _pool(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = self._stack.enter_context(picture_threads(self.options.pictures.threads()))
        return self._threads

    def trained(self) -> dict[str, nn.Parameter]:
        """What is trained, by its name in this module."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """What is trained, and no more: the rest is in the encoder's own weights."""
        destination = OrderedDict() if destination is None else destination
        for name, parameter in self.trained().items():
            destination[prefix + name] = parameter if keep_vars else parameter.detach()
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any) -> None:
        mine = self.trained()
        given = {
            name.removeprefix(prefix): state_dict.pop(name) for name in list(state_dict) if name.startswith(prefix)
        }
        _check_state(mine, given)
        with torch.no_grad():
            for name, parameter in mine.items():
                if not torch.equal(parameter, given[name].to(parameter)):
                    parameter.copy_(given[name])
                    self._stale = True
        self.version += self._stale
        # torch goes on to the encoders, and finds there what they have.
        state_dict.update({prefix + name: value for name, value in nn.Module.state_dict(self).items()})

    def tables_to_keep(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint must hold beside the state, to train on from it: rows that cannot be made again."""
        if not self._stale:
            return {}
        names = ("values", "mean", "length")
        return {m: {name: getattr(self.live_table(m), name) for name in names} for m in self.modalities}

    def load_tables(self, kept: Mapping[str, Mapping[str, Tensor]]) -> None:
        """After the state: bring back what `tables_to_keep` gave."""
        for m, tensors in kept.items():
            table = self.live_table(cast(Modality, m))
            for name, tensor in tensors.items():
                setattr(table, name, tensor.to(table.values))
            self._stale = True
        if not kept:
            self.refresh()
        self.version += 1

    def __deepcopy__(self, memo: dict[int, object]) -> FrozenFeatures:
        """The features as they are: copies of a model, as RecBole makes them to count operations, train no encoder."""
        tables = {m: self.live_table(m) for m in self.modalities}
        return FrozenFeatures({m: AlignedFeatures(table.values, table.has) for m, table in tables.items()})


def _check_state(mine: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    if told := state_faults(mine, given):
        raise CheckpointError(
            f"the checkpoint does not hold what is trained of the encoders: {told}. Set paradigm, encoder and tune to "
            "what they were when it was written."
        )
