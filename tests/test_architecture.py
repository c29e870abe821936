"""A folder imports only folders that stand before it; each host is known to its own folder alone."""

import ast
from pathlib import Path

import pytest

import mmenc_plugin

ROOT = Path(mmenc_plugin.__file__).parent
ORDER = ["kernels", "data", "encoders", "features", "models", "training", "hosts", "experiments", "cli", "testing"]
FILES = sorted(ROOT.rglob("*.py"))


def imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path):
    here = path.relative_to(ROOT).parts[0]
    if here not in ORDER:
        return
    ours = {name.split(".")[1] for name in imports(path) if name.startswith("mmenc_plugin.")}
    later = {name for name in ours if name in ORDER and ORDER.index(name) > ORDER.index(here)}
    assert not later


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_only_hosts_recbole_imports_recbole(path):
    if "hosts/recbole" not in path.as_posix():
        assert not {name for name in imports(path) if name.split(".")[0] == "recbole"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_are_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300
