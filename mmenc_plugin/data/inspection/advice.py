"""What to do next, as sentences that name the setting or the file."""

from __future__ import annotations

from collections.abc import Iterator

from mmenc_plugin.data.inspection.interactions import FEW, InteractionReport
from mmenc_plugin.data.inspection.pictures import PictureReport
from mmenc_plugin.data.inspection.report import Inspection
from mmenc_plugin.data.inspection.texts import TextReport, TokenReport
from mmenc_plugin.data.inspection.words import be, have, percent, plural

LARGE = 1024  # pixels; encoders take 224 to 512, so that what is larger costs time alone
CROWDED = 0.5  # of the interactions on 10 % of the items


def advise(report: Inspection) -> tuple[str, ...]:
    """What the figures ask for, the most urgent first; one line that says so where they ask for nothing."""
    lines = list(_on_interactions(report))
    if report.pictures:
        lines += _on_pictures(report.pictures, "looked-at item" if report.sample else "item")
    if report.texts:
        lines += _on_texts(report.texts)
    if report.tokens:
        lines += _on_tokens(report.tokens)
    lines += _on_crowding(report.interactions)
    return tuple(lines) or (f"Nothing to mend. Encode with: mmenc extract --dataset={report.dataset}",)


def _on_interactions(report: Inspection) -> Iterator[str]:
    found, name = report.interactions, report.dataset
    if not found.interactions:
        yield f"There are no interactions. Features can be extracted; a run needs {name}.inter with users and items."
        return
    if found.unknown.count:
        names = "names" if found.unknown.count == 1 else "name"
        yield (
            f"{plural(found.unknown.count, 'interaction')} {names} {plural(found.unknown_items, 'item')} without a row "
            f"in {name}.item, at which a run stops. Add the rows, or take those interactions out of {name}.inter."
        )


def _on_pictures(found: PictureReport, item: str) -> Iterator[str]:
    without = found.examined - found.usable
    if found.examined and not found.usable:
        yield (
            f"Not one {item} has a usable picture ({found.unusable[0].name}). Check image_dir and item_image, or leave "
            "pictures out with modalities=text."
        )
    elif without:
        reasons = [f"{group.name} ({group.count:,})" for group in found.unusable]
        listed = "; ".join(reasons[:3]) + (" and others" if len(reasons) > 3 else "")
        yield (
            f"{plural(without, item)} ({percent(without / found.examined)}) {have(without)} no usable picture: "
            f"{listed}. Mend the files, or choose what such items get with missing: mean, zeros, or error to stop."
        )
    for group in found.placeholders[:3]:
        yield (
            f"{plural(group.count, item)} {have(group.count)} one and the same picture ({group.examples[0].detail}). "
            "If it is a placeholder, empty the picture's cell of these items, so that they count as missing."
        )
    if found.blank.count:
        yield (
            f"{plural(found.blank.count, 'picture')} {be(found.blank.count)} nearly one single colour. If nothing is "
            "to be seen there, empty the cell of these items."
        )
    if found.width and found.height and min(found.width.median, found.height.median) > LARGE:
        yield (
            f"Pictures are large ({found.width.median:,.0f} x {found.height.median:,.0f} in the middle), and encoders "
            "take 224 to 512 pixels. Copies of 512 pixels on the short side are decoded many times faster."
        )


def _on_texts(found: TextReport) -> Iterator[str]:
    if found.empty.count:
        yield (
            f"{plural(found.empty.count, 'item')} ({percent(found.empty.share)}) {have(found.empty.count)} no text. "
            "Add a column to item_text that they have, or choose what they get with missing."
        )
    if found.html.count:
        yield (
            f"{plural(found.html.count, 'text')} {have(found.html.count)} HTML left in (as "
            f"{found.html.examples[0].detail!r}). Take tags and entities out of the .item file."
        )
    if found.unprintable.count:
        yield (
            f"{plural(found.unprintable.count, 'text')} {have(found.unprintable.count)} characters that cannot be "
            "printed, often from a wrong encoding. Write the .item file again from its source, as UTF-8."
        )
    if found.duplicates.count:
        yield (
            f"{plural(found.duplicates.count, 'item')} ({percent(found.duplicates.share)}) share their text with "
            "another. Text features cannot tell them apart: add a column to item_text that does."
        )
    if found.short.count:
        yield (
            f"{plural(found.short.count, 'text')} {have(found.short.count)} fewer than 3 words. Add columns to "
            "item_text, as category or brand."
        )


def _on_tokens(found: TokenReport) -> Iterator[str]:
    if found.cut and found.cut.count:
        yield (
            f"{percent(found.cut.share)} of the texts are cut at {found.limit} tokens, and {percent(found.lost or 0)} "
            "of all tokens are lost. Put the columns that say most first in item_text, or take an encoder of longer "
            "texts."
        )


def _on_crowding(found: InteractionReport) -> Iterator[str]:
    if not found.interactions:
        return
    if found.cold.count:
        yield (
            f"{plural(found.cold.count, 'item')} ({percent(found.cold.share)}) {have(found.cold.count)} no "
            "interaction: features can be had of them, but a run sees and recommends only items that somebody took."
        )
    if found.few.share > CROWDED:
        yield (
            f"{percent(found.few.share)} of the users have fewer than {FEW} interactions. RecBole leaves them out with "
            f'user_inter_num_interval: "[{FEW},inf)".'
        )
    if found.top_10_percent > CROWDED:
        yield (
            f"{percent(found.top_10_percent)} of the interactions go to 10 % of the items. Compare with a ranking by "
            "popularity (--baselines=Pop)."
        )
