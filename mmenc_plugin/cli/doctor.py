"""mmenc doctor: what is installed, what was repaired, what is missing and the line that mends it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

HELP = "versions, host repairs, device, what is missing and the line that mends it"
DESCRIPTION = "Look at this installation. The exit status is 1 if something must be mended."
EXAMPLES = """\
example:
  mmenc doctor
"""
TORCH_TESTED = ((2, 6), (2, 13))
CORE = ("recbole", "torch", "numpy", "pandas", "scipy", "scikit-learn", "pydantic", "safetensors", "pillow")
EXTRAS = {
    "open_clip_torch": "openclip",
    "sentence-transformers": "sbert",
    "tokenizers": "vlmo",
    "simplejpeg": "fast",
    "transformers": "hf",
    "timm": "timm",
    "peft": "train",
    "accelerate": "train",
    "hyperopt": "hyper",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are none."""


def main(args: argparse.Namespace, rest: Sequence[str]) -> int:
    """Print the report."""
    from mmenc_plugin import __version__

    print(f"mmenc-plugin {__version__}, Python {sys.version.split()[0]}")
    must = [*_versions(), *_hook()]
    _torchvision()
    _repairs()
    _device()
    for line in must:
        print(f"MEND: {line}")
    print("nothing must be mended" if not must else f"{len(must)} to mend")
    return 1 if must else 0


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _versions() -> list[str]:
    must = []
    print("\nPACKAGES")
    for package in CORE:
        found = _version(package)
        print(f"  {package} {found or 'missing'}")
        if not found:
            must.append(f"{package} is missing: pip install --force-reinstall mmenc-plugin")
    for package, extra in EXTRAS.items():
        found = _version(package)
        print(f"  {package} {found or f'not installed; for it: pip install {_quoted(extra)}'}")
    if (_version("recbole") or "").startswith("1.2.0"):
        print("  RecBole 1.2.0 works; 1.2.1 (more models and splits): pip install --no-deps recbole==1.2.1")
    torch_version = _version("torch") or "0.0"
    numbers = tuple(int(part) for part in torch_version.split("+")[0].split(".")[:2])
    if not TORCH_TESTED[0] <= numbers <= TORCH_TESTED[1]:
        must.append(f"torch {torch_version} is outside the tested range: pip install 'torch>=2.6,<2.14'")
    return must


def _quoted(extra: str) -> str:
    return f"'mmenc-plugin[{extra}]'"


def _hook() -> list[str]:
    from mmenc_plugin.autoload import Finder

    print("\nRECBOLE'S LOOK-UPS")
    at_start = Finder in sys.meta_path and "mmenc_plugin_autoload" in "".join(_path_files())
    print(f"  models are registered when Python starts: {'yes' if at_start else 'no'}")
    if at_start:
        return []
    return [
        "no path file runs in this environment, so RecBole's own scripts do not know the models: reinstall with pip "
        "into a site-packages folder, or begin your script with: import mmenc_plugin; mmenc_plugin.register()"
    ]


def _path_files() -> list[str]:
    import os
    import site

    folders = [*site.getsitepackages(), site.getusersitepackages(), *sys.path]
    return [name for folder in folders if os.path.isdir(folder) for name in os.listdir(folder) if name.endswith(".pth")]


def _torchvision() -> None:
    from mmenc_plugin.encoders import _torchvision

    meaning = {
        "absent": "not installed (openclip: and timm: need it)",
        "working": "works with this torch",
        "mended": "was built for another torch; made importable for the encoders that need it. "
        "To have the whole of it, install the torchvision of your torch's own index and build",
    }
    print(f"  torchvision {_version('torchvision') or ''} {meaning[_torchvision.state()]}")


def _repairs() -> None:
    from mmenc_plugin.hosts.recbole.repair import REPAIRS

    print("\nREPAIRS OF RECBOLE")
    for repair in REPAIRS:
        print(f"  [{'applied' if repair.needed() else 'not needed'}] {repair.name}: {repair.reason}")


def _device() -> None:
    import torch

    print("\nDEVICE")
    if torch.cuda.is_available():
        print(f"  {torch.cuda.get_device_name()} (RecBole takes the one that gpu_id names)")
    else:
        print(f"  no GPU that torch can use; the CPU with {torch.get_num_threads()} threads")
    _kernels(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def _kernels(device: torch.device) -> None:
    """The implementation of each kernel that `scorer: auto` takes on the device, and why it is not Triton."""
    import torch

    from mmenc_plugin.kernels import KERNELS
    from mmenc_plugin.kernels.dispatch import choose, obstacle

    print(
        f"  triton {_version('triton') or 'not installed; a GPU needs it for the Triton kernels: pip install triton'}"
    )
    for name, (_, implementations) in KERNELS.items():
        chosen = choose(name, "auto", torch.empty(0, device=device)) if "triton" in implementations else "cpu"
        reason = obstacle(device) if "triton" in implementations else "this kernel has no Triton implementation"
        note = (
            f"; not triton: {reason or 'that runs in its interpreter, which is for tests'}" if chosen == "cpu" else ""
        )
        print(f"  kernel {name}: {chosen}{note}")
