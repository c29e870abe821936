"""What the commands of `mmenc features` do, and how they print it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from mmenc_plugin.cli._blocks import print_block
from mmenc_plugin.cli._host_arguments import launch_of
from mmenc_plugin.errors import SettingsError, some
from mmenc_plugin.features import compare as comparison
from mmenc_plugin.features import exchange, manage, open_block


def list_blocks(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a line a block."""
    found = manage.summaries(Path(args.store))
    if args.json:
        print(json.dumps([asdict(summary) for summary in found], indent=1))
        return 0
    rows = [("key", "modality", "encoder", "items", "width", "masked", "size", "written")]
    for s in found:
        numbers = (f"{s.items:,}", str(s.width), f"{s.masked:,}") if not s.damage else ("?", "?", "?")
        rows.append((s.key, s.modality, s.encoder, *numbers, _size(s.bytes), s.written))
    print(_table(rows) if found else f"no blocks in {args.store}")
    for s in found:
        if s.damage:
            print(f"damaged: {s.key}: {s.damage}")
    left = [path for path in manage.leftovers(Path(args.store)) if path.is_dir()]
    if left:
        print(
            f"{len(left)} leftovers of stopped runs, {_size(sum(map(manage.size_of, left)))}: the same runs go on from"
        )
        print("them; mmenc features delete --leftovers removes them")
    return 0


def verify(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print a line a block; 1 if one is damaged."""
    store, damaged = Path(args.store), 0
    folders = [manage.find_block(store, key) for key in args.keys] or manage.block_folders(store)
    for key, damage in manage.verify(folders):
        damaged += bool(damage)
        print(f"DAMAGED  {key}: {damage}" if damage else f"ok       {key}", flush=True)
    print(f"{len(folders)} blocks, {damaged} damaged")
    return 1 if damaged else 0


def diff(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the differences; 1 if there are any."""
    first, second = (_place(name, Path(args.store)) for name in (args.first, args.second))
    blocks = [_is_block(path) for path in (first, second)]
    if all(blocks):
        found = comparison.compare_blocks(open_block(first), open_block(second))
        lines = list(_block_lines(found))
        same = found.same
        as_dict = asdict(found)
    elif not any(blocks):
        stores = comparison.compare_stores(first, second)
        lines, same, as_dict = list(_store_lines(stores)), stores.same, asdict(stores)
    else:
        raise SettingsError(f"{first} and {second} are a block and a store. Name two of one kind.")
    print(json.dumps({"same": same, **as_dict}, indent=1) if args.json else "\n".join(lines))
    return 0 if same else 1


def _is_block(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _place(name: str, store: Path) -> Path:
    return Path(name) if Path(name).is_dir() else manage.find_block(store, name)


def _store_lines(found: comparison.StoreDifference) -> Iterable[str]:
    for name, keys in zip("AB", found.only, strict=True):
        yield from (f"only in {name}: {key}" for key in keys)
    for key, difference in found.shared.items():
        yield f"the same: {key}" if difference.same else f"DIFFERENT: {key}"
        if not difference.same:
            yield from (f"  {line}" for line in _block_lines(difference))
    if found.same:
        yield "the two stores hold the same blocks"


def _block_lines(found: comparison.BlockDifference) -> Iterable[str]:
    if found.same:
        yield "the two blocks are the same, byte for byte"
        return
    yield from _recipe_lines(found)
    yield f"{found.shared:,} items in both"
    for name, only, masked in zip("AB", found.only, found.masked, strict=True):
        if only:
            yield f"{len(only):,} items only in {name}: {some(only)}"
        if masked:
            yield f"{len(masked):,} items without features only in {name}: {some(masked)}"
    if found.widths[0] != found.widths[1]:
        yield f"widths {found.widths[0]} and {found.widths[1]}: no cosines"
    if found.cosines:
        c = found.cosines
        yield f"cosine over {c.n_items:,} items: mean {c.mean:.6f}, least {c.least:.6f} ('{c.item}')"
        yield f"largest difference of two numbers: {c.largest_difference:.3g}"


def _recipe_lines(found: comparison.BlockDifference) -> Iterable[str]:
    if not found.recipe:
        yield "one recipe, but other bytes: one of them was made on another machine or with other library versions"
    for name, (one, other) in found.recipe.items():
        # How two families prepare their inputs has nothing in common.
        if not (name.startswith("encoder.preprocessing") and "encoder.family" in found.recipe):
            yield f"recipe, {name}: {one} | {other}"


def delete(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Show what will go, ask, delete."""
    store = Path(args.store)
    chosen = [manage.find_block(store, key) for key in args.keys]
    if args.unused:
        chosen += _unused(args, rest, store)
    if args.older_than is not None:
        chosen += manage.older_than(store, args.older_than)
    if args.leftovers:
        chosen += manage.leftovers(store)
    elif not (args.keys or args.unused or args.older_than is not None):
        raise SettingsError("say what to delete: a KEY, --unused, --older-than=DAYS or --leftovers.")
    chosen = sorted(set(chosen))
    for path in chosen:
        print(f"  {path}")
    if not chosen:
        print("nothing to delete")
        return 0
    if not args.yes and not _agreed(len(chosen)):
        print("nothing was deleted")
        return 1
    print(f"{len(chosen)} deleted, {_size(sum(manage.delete(path) for path in chosen if path.exists()))}")
    return 0


def _unused(args: argparse.Namespace, rest: Sequence[str], store: Path) -> list[Path]:
    from mmenc_plugin.hosts.recbole.features import items_of, recipes_of
    from mmenc_plugin.hosts.recbole.run import make_config

    if not args.dataset:
        raise SettingsError("--unused needs --dataset: every data set that shares the store, as in --dataset=a,b.")
    used = set()
    for name in args.dataset.split(","):
        config = make_config(launch_of(argparse.Namespace(**{**vars(args), "dataset": name}), rest))
        for recipe in recipes_of(config, items_of(config)):
            used.add(recipe.key)
            print(f"  used by {name}: {recipe.key}{'' if (store / recipe.key).is_dir() else ' (not in the store)'}")
    return [folder for folder in manage.block_folders(store) if folder.name not in used]


def _agreed(count: int) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError("nobody can be asked here, so nothing was deleted. Add --yes to delete without asking.")
    return input(f"Delete these {count}? [y/N] ").strip().lower() in ("y", "yes")


def export(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Write a block for another toolkit, and print how it is used there."""
    exchange.registry.get(args.format)
    block = open_block(manage.find_block(Path(args.store), args.key))
    order = Path(args.order_from) if args.order_from else None
    written = exchange.export(
        block, args.format, Path(args.to), order_from=order, id_column=args.id_column, missing=args.missing,
        replace=args.replace,
    )  # fmt: skip
    print(f"{written.n_rows:,} items, width {written.width}: {', '.join(map(str, written.files))}")
    if written.filled:
        print(f"{written.filled:,} items without features got the {args.missing or 'mean'}")
    if written.left_out:
        print(f"{written.left_out:,} items without features were left out")
    print(written.note)
    return 0


def import_file(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Check features against a data set, copy them into the store, and print the line that uses them."""
    from mmenc_plugin.hosts.recbole.features import bare_items_of, blocks_of, items_of
    from mmenc_plugin.hosts.recbole.run import make_config

    if "=" in f"{args.path}{args.ids}":
        raise SettingsError("a path with '=' in it cannot stand in a URI on a command line. Rename the file or folder.")
    launch = launch_of(args, rest)
    # A model of RecBole's own needs neither pictures nor texts, so the item file can be read as it is.
    items = bare_items_of(make_config(replace(launch, model="BPR")))
    uri = exchange.uri_of(args.format, Path(args.path), items, Path(args.ids) if args.ids else None)
    settings = [f"--modalities=['{args.modality}']", f"--encoder={uri.replace('=', ':')}"]
    config = make_config(replace(launch, overrides=[*launch.overrides, *settings]))
    for modality, block in blocks_of(config, items_of(config)).items():
        print_block(modality, block)
    print(f'encoder: {{{args.modality}: "{uri}"}}')
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace, Sequence[str]], int]] = {
    "list": list_blocks,
    "verify": verify,
    "diff": diff,
    "delete": delete,
    "export": export,
    "import": import_file,
}


def _size(n_bytes: float) -> str:
    units = ["B", "kB", "MB", "GB", "TB"]
    while n_bytes >= 1000 and len(units) > 1:
        n_bytes /= 1000
        units.pop(0)
    return f"{n_bytes:.0f} {units[0]}" if n_bytes >= 10 or units[0] == "B" else f"{n_bytes:.1f} {units[0]}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
