"""What the doctor says of the kernels."""

import importlib.util

import pytest

from mmenc_plugin import kernels
from mmenc_plugin.cli import doctor


@pytest.fixture
def lines(monkeypatch, capsys):
    """lines(implementations): what is printed of a kernel that has these, by its first word."""

    def run(*implementations):
        monkeypatch.setattr(kernels, "KERNELS", {"rank": ("ranks", implementations)})
        doctor._device()
        printed = capsys.readouterr().out.splitlines()
        return {line.split()[0]: line.strip() for line in printed if line.startswith("  ")}

    return run


def test_a_kernel_runs_on_the_cpu_and_why(lines, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name == "triton" or None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    expected = "kernel rank: cpu; not triton: the tensors are on cpu, and Triton needs a GPU"
    assert lines("triton", "cpu", "reference")["kernel"] == expected
    assert (
        lines("cpu", "reference")["kernel"] == "kernel rank: cpu; not triton: this kernel has no Triton implementation"
    )
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "which is for tests" in lines("triton", "cpu", "reference")["kernel"]


def test_triton_and_its_version_or_the_line_that_installs_it(lines, monkeypatch):
    monkeypatch.setattr(doctor, "_version", lambda package: {"triton": "3.7.1"}.get(package))
    assert lines("cpu")["triton"] == "triton 3.7.1"
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    assert "pip install triton" in lines("cpu")["triton"]


def test_the_settings_name_the_implementations_that_there_are():
    from typing import get_args

    from mmenc_plugin.kernels.dispatch import SCORERS
    from mmenc_plugin.settings import RankingSettings

    assert get_args(RankingSettings.model_fields["scorer"].annotation) == SCORERS
