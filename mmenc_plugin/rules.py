"""Settings that are a word with a number behind it, taken apart."""

from __future__ import annotations

import difflib
import re

from mmenc_plugin.errors import SettingsError, nearest


def tuning_scope(tune: str) -> tuple[str, int]:
    """A tuning scope taken apart: (full, 0), (head, 0), (top, N) or (lora, R).

    Raises:
        SettingsError: it is none; the message has the nearest one.
    """
    match = re.fullmatch(r"(full|head)|(top|lora):([1-9]\d*)", tune)
    if match:
        return match[1] or match[2], int(match[3] or 0)
    word, _, number = tune.partition(":")
    word = next(iter(difflib.get_close_matches(word.lower(), ("full", "head", "top", "lora"), 1, 0.4)), "full")
    digits = re.sub(r"\D", "", number)
    number = f":{int(digits) if digits.strip('0') else {'top': 2, 'lora': 8}[word]}" if word in ("top", "lora") else ""
    raise SettingsError(
        f"tune is '{tune}': full, head, top:N (the last N blocks of each tower, and the head) or lora:R (adapters of "
        f"rank R) was expected, N and R whole numbers from 1 on. Did you mean '{word}{number}'?"
    )


def refresh_rule(refresh: str) -> tuple[str, int]:
    """A rule for stale rows taken apart: (epoch, 0), (evaluation, 0), (never, 0) or (steps, N).

    Raises:
        SettingsError: it is none; the message has the nearest one.
    """
    match = re.fullmatch(r"(epoch|evaluation|never)|(steps):([1-9]\d*)", refresh)
    if match:
        return match[1] or match[2], int(match[3] or 0)
    raise SettingsError(
        "epoch, evaluation, never or steps:N was expected, N a whole number from 1 on."
        + nearest(refresh.partition(":")[0], ("epoch", "evaluation", "never", "steps"))
    )
