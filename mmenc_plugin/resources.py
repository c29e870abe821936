"""The files that travel with the package: YAML defaults and the demo data set."""

from __future__ import annotations

from pathlib import Path


def resource_dir(name: str) -> Path:
    """The folder `name` ("yaml_configs" or "dataset_atomic"), installed or in a checkout.

    Raises:
        FileNotFoundError: the installation is incomplete.
    """
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise FileNotFoundError(
        f"{name}/ is neither in {package} nor beside it; the installation is incomplete: "
        "pip install --force-reinstall mmenc-plugin"
    )
