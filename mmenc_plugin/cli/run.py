"""mmenc run: train and test a model in RecBole."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmenc_plugin.cli._host_arguments import OVERRIDES, add_host_arguments, add_process_arguments, launch_of

HELP = "train and test a model in RecBole"
DESCRIPTION = f"""\
Train a model, select on validation, test once, and print the result: RecBole's run_recbole.py with the same
arguments. The encoder's features are extracted first, unless the store has them.

{OVERRIDES}"""
EXAMPLES = """\
examples:
  mmenc run --model=VBPR --dataset=demo --baselines=BPR
  mmenc run -m VBPR -d baby --data_path=dataset --encoder=openclip:ViT-B-32/laion2b_s34b_b79k --learning_rate=0.002
  mmenc run -m VBPR -d baby --config_files="my.yaml" --nproc=2
  torchrun --nproc-per-node=2 -m mmenc_plugin run -m VBPR -d baby --config_files="my.yaml"
  mmenc run --baselines=BPR --eval_slices=cold,warm,tail,missing-image,missing-text
  mmenc run -m VBPR -d baby --config_files="my.yaml" --plan
  mmenc run -m VBPR -d baby --config_files="my.yaml" --paradigm=end_to_end --resume
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_host_arguments(parser)
    parser.add_argument(
        "--baselines", default="", metavar="A,B", help="more models, run with the same settings, for the result table"
    )
    parser.add_argument(
        "--plan",
        action="store_true",
        help="train nothing: measure a few steps, and print parameters, memory against what the device has, and hours",
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="saved/resume",
        metavar="DIR",
        help="keep a checkpoint after each epoch, and go on from the one of a stopped run; like --resume_dir=DIR "
        "(default: %(const)s)",
    )
    add_process_arguments(parser)


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Run it and print the table."""
    from mmenc_plugin.hosts.recbole.run import make_config, result_table, run_with_baselines, slice_tables

    launch = launch_of(args, [*rest, *([f"--resume_dir={args.resume}"] if args.resume else [])])
    config = make_config(launch)
    if args.plan:
        from mmenc_plugin.cli._plan_page import page
        from mmenc_plugin.hosts.recbole.plan import plan_of

        print(page(plan_of(config)))
        return 0
    baselines = [name for name in args.baselines.split(",") if name]
    results = run_with_baselines(launch, baselines)
    if os.environ.get("RANK", "0") != "0":  # one of torchrun's processes, of which the first prints
        return 0
    mode = config["eval_args"]["mode"]["test"]
    ranking = "full ranking" if mode == "full" else f"ranking of sampled items ({mode})"
    if config["ranking_mask"] == "train":
        ranking += " without the training items alone (ranking_mask: train)"
    print("\n" + result_table(results, f"{args.dataset}, test set, {ranking}, seed {config['seed']}"))
    if slices := slice_tables(results):
        print("\n" + slices)
    return 0
