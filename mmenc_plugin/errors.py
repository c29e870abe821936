"""Every exception of the package. Each message says what was found, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MmencError(Exception):
    """Base of all errors that a user can mend; `mmenc` prints them as one paragraph."""


class SettingsError(MmencError, ValueError):
    """A key or a value of the configuration is not one that anything knows."""


class UnknownNameError(SettingsError):
    """A model, encoder, weights tag, modality or column that does not exist."""


class DataError(MmencError, ValueError):
    """A data set is missing something or says two things at once."""


class MediaError(MmencError, ValueError):
    """A picture that is not taken, and why."""


class StoreError(MmencError, RuntimeError):
    """A feature store that cannot be read, written or trusted."""


class WeightsError(MmencError, RuntimeError):
    """Encoder weights that cannot be found or loaded."""


class EncoderOutputError(MmencError, ArithmeticError):
    """An encoder gave a value that is no number."""


class CheckpointError(MmencError, RuntimeError):
    """A checkpoint that holds what no checkpoint of RecBole or of ours holds."""


class NoMemoryError(MmencError, RuntimeError):
    """A step that does not fit into the device's memory."""


class TrainingError(MmencError, ValueError):
    """A training that has come to numbers that are none."""


class MissingExtraError(MmencError, ImportError):
    """An optional dependency that is not installed."""

    def __init__(self, what: str, extra: str, cause: ImportError) -> None:
        super().__init__(
            f"{what} needs a package that is not installed ({cause}). "
            f"Install it with: pip install 'mmenc-plugin[{extra}]'"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """A clause that names the nearest known name, or nothing where none is near."""
    by_lower = {k.lower(): k for k in known}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean '{by_lower[match[0]]}'?" if match else ""


def unknown_name(kind: str, name: str, known: Sequence[str]) -> UnknownNameError:
    """The error for a name that nothing answers to, with the nearest one and (a few of) those known."""
    shown = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
    return UnknownNameError(f"no {kind} named '{name}'.{nearest(name, known)} Known: {shown or 'none'}.")


def some(names: Iterable[str], show: int = 3) -> str:
    """The first few of many names, for a message."""
    listed = list(names)
    return ", ".join(f"'{n}'" for n in listed[:show]) + (", ..." if len(listed) > show else "")
