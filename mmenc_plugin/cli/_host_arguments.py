"""The arguments that RecBole's run_recbole.py has, for the commands that share them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from mmenc_plugin.errors import SettingsError
from mmenc_plugin.hosts.recbole.run import Launch

OVERRIDES = """\
Any setting of RecBole or of the plugin may follow as --key=value; `mmenc list settings` prints the plugin's.
"""


def add_host_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --model, --dataset and --config_files."""
    parser.add_argument("--model", "-m", default="VBPR", help="name of the model (default: %(default)s)")
    parser.add_argument("--dataset", "-d", default="demo", help="name of the data set's folder (default: %(default)s)")
    parser.add_argument("--config_files", help="YAML files, separated by spaces; later ones win")


def add_process_arguments(parser: argparse.ArgumentParser) -> None:
    """Add run_recbole.py's arguments for several processes."""
    group = parser.add_argument_group("several processes, as in run_recbole.py")
    group.add_argument("--nproc", type=int, default=1, help="processes on this machine")
    group.add_argument("--world_size", type=int, default=-1, help="processes on all machines")
    group.add_argument("--ip", default="localhost", help="address of the first machine")
    group.add_argument("--port", default="5678", help="port of the first machine")
    group.add_argument("--group_offset", type=int, default=0, help="number of this machine's first process")


def launch_of(args: argparse.Namespace, rest: Sequence[str]) -> Launch:
    """The launch that parsed arguments describe.

    Raises:
        SettingsError: an argument that is not --key=value; RecBole would drop it with a warning.
    """
    for argument in rest:
        if not argument.startswith("--") or "=" not in argument:
            raise SettingsError(f"argument '{argument}' is not of the form --key=value, so RecBole would not read it.")
        if argument.count("=") > 1:
            raise SettingsError(
                f"argument '{argument}' has two '=', so RecBole would drop it; put it into a YAML file."
            )
    names = ("nproc", "world_size", "ip", "port", "group_offset")
    processes = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return Launch(args.model, args.dataset, (args.config_files or "").split(), list(rest), processes)


def own_gpu(rest: Sequence[str]) -> list[str]:
    """The setting that gives each of several processes on this machine a GPU of its own."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None or any(argument.startswith(("--gpu_id=", "--use_gpu=")) for argument in rest):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else []
    return [f"--gpu_id={gpus[int(rank) % len(gpus)] if gpus else rank}"]
