"""The benchmark of a step compares sides that compute the same, and has no report where they do not."""

import importlib.util
from contextlib import closing
from pathlib import Path

import pytest
import torch

FILE = Path(__file__).parents[1] / "benchmarks" / "end_to_end.py"


@pytest.fixture
def benchmark():
    spec = importlib.util.spec_from_file_location("step_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sides(benchmark, tmp_path, tiny_clip):
    """sides(*arguments): both, and the arguments."""

    def make(*given):
        given = ["--items=12", "--batch=16", "--side=40", f"--encoder=openclip:local-dir:{tiny_clip}", *given]
        args = benchmark.arguments(given)
        (tmp_path / "images").mkdir()
        data = benchmark.make_data(tmp_path / "images", args)
        return [side(data, args, tmp_path / "store") for side in (benchmark.Ours, benchmark.Plain)], args

    return make


@pytest.mark.parametrize("loss", ["BPR", "in_batch"])
def test_the_sides_have_the_same_gradients_and_a_report(benchmark, sides, capsys, loss):
    (ours, plain), args = sides(f"--loss={loss}", "--modalities=image,text", "--steps=1")
    with closing(ours.live), closing(plain.live):
        difference = benchmark.check(ours, plain, ours.data.batches[0])
        benchmark.report(ours, plain, args, difference)
    told = capsys.readouterr().out
    assert f"places of a batch {32 if loss == 'BPR' else 16}, " in told
    assert told.count("ratio") == 3


def test_a_side_that_computes_something_else_has_no_report(benchmark, sides):
    (ours, plain), _ = sides()
    with closing(ours.live), closing(plain.live):
        with torch.no_grad():
            plain.vbpr.user_content.weight.mul_(1.1)
        with pytest.raises(SystemExit, match="no report"):
            benchmark.check(ours, plain, ours.data.batches[0])
