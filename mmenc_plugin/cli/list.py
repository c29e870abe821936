"""mmenc list: what there is, with the paper of each."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from mmenc_plugin.types import Citation

HELP = "models, encoders, kernels and settings, with the paper of each"
DESCRIPTION = "List what is registered, by this package and by others that add to it."
EXAMPLES = """\
examples:
  mmenc list
  mmenc list encoders
  mmenc list models --markdown
"""
KINDS = ("models", "encoders", "kernels", "settings")
Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("kind", nargs="?", choices=KINDS, help="only these")
    parser.add_argument("--markdown", action="store_true", help="as Markdown tables, as in the README")


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the tables."""
    from mmenc_plugin.errors import SettingsError

    if rest:
        raise SettingsError(f"'{rest[0]}' is not an argument of mmenc list; see mmenc list --help.")
    kinds = [args.kind] if args.kind else list(KINDS)
    print("\n\n".join(markdown(kind) if args.markdown else _plain(kind) for kind in kinds))
    return 0


def table(kind: str) -> Table:
    """Header and rows of one kind."""
    return {"models": _models, "encoders": _encoders, "kernels": _kernels, "settings": _settings}[kind]()


def markdown(kind: str) -> str:
    """One kind as a Markdown table."""
    header, rows = table(kind)
    lines = [header, tuple("---" for _ in header), *(tuple(c.replace("|", "\\|") for c in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _plain(kind: str) -> str:
    header, rows = table(kind)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (header, *rows)]
    return "\n".join([kind.upper(), *lines])


def _models() -> Table:
    from mmenc_plugin import models

    return ("model", "paper"), [(name, _paper(model.citation)) for name, model in models.registry]


def _encoders() -> Table:
    from mmenc_plugin import encoders

    rows = [
        (f"{name}:", ", ".join(sorted(e.modalities)), f"`{e.example}`", e.extra or "in the core", _paper(e.citation))
        for name, e in encoders.registry
    ]
    return ("family", "modalities", "example", "extra", "paper"), rows


def _kernels() -> Table:
    from mmenc_plugin import kernels

    return ("kernel", "computes", "implementations"), [(n, w, ", ".join(i)) for n, (w, i) in kernels.KERNELS.items()]


def _settings() -> Table:
    from mmenc_plugin import models
    from mmenc_plugin.settings import (
        FeatureSettings,
        FinetuneSettings,
        LiveSettings,
        RankingSettings,
        ResumeSettings,
        Settings,
        TuningSettings,
    )

    shared = (FeatureSettings, TuningSettings, FinetuneSettings, LiveSettings, ResumeSettings, RankingSettings)
    kinds: list[tuple[str, type[Settings]]] = [("all", kind) for kind in shared]
    kinds += [(name, model.settings) for name, model in models.registry]
    rows = [
        (owner, name, str(field.get_default(call_default_factory=True)), field.description or "")
        for owner, kind in kinds
        for name, field in kind.model_fields.items()
    ]
    return ("of", "setting", "default", "meaning"), rows


def _paper(citation: Citation) -> str:
    return f"{citation.authors} {citation.year}, {citation.title}, {citation.url}"
