"""A package of somebody else adds encoders and models, and RecBole knows them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "other_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The other package, built and installed into a folder by pip."""
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "package")
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", str(target)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    return target


def run(installed, cwd, *argv):
    env = {**os.environ, "PYTHONPATH": str(installed)}
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=300)


def test_both_are_listed(installed, tmp_path):
    listed = run(installed, tmp_path, "mmenc", "list").stdout
    assert "length:" in listed
    assert "ContentOnly" in listed


def test_recboles_own_script_route_trains_the_other_model_on_the_other_encoder(installed, tmp_path):
    code = (
        "from recbole.quick_start import run_recbole\n"
        "r = run_recbole(model='ContentOnly', dataset='demo', config_dict={'encoder': 'length', 'modalities': ['text'],"
        " 'epochs': 1, 'show_progress': False})\n"
        "print('RESULT', r['test_result']['recall@20'])"
    )
    done = run(installed, tmp_path, sys.executable, "-c", code)
    assert "RESULT" in done.stdout, done.stderr[-2000:]
    assert list((tmp_path / "features").glob("text-length-*/manifest.json"))
