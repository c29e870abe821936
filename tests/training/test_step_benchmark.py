"""The benchmark of a step compares sides that compute the same, and has no report where they do not."""

from contextlib import closing

import pytest
import torch
from benchmarks import end_to_end


@pytest.fixture
def sides(tmp_path, tiny_clip):
    """sides(*arguments): both, and the arguments."""

    def make(*given):
        given = ["--items=12", "--batch=16", "--side=40", f"--encoder=openclip:local-dir:{tiny_clip}", *given]
        args = end_to_end.arguments(given)
        (tmp_path / "images").mkdir()
        data = end_to_end.make_data(tmp_path / "images", args)
        return [side(data, args, tmp_path / "store") for side in (end_to_end.Ours, end_to_end.Plain)], args

    return make


@pytest.mark.parametrize("loss", ["BPR", "in_batch"])
def test_the_sides_have_the_same_gradients_and_a_report(sides, capsys, loss):
    (ours, plain), args = sides(f"--loss={loss}", "--modalities=image,text", "--steps=1")
    with closing(ours.live), closing(plain.live):
        difference = end_to_end.check(ours, plain, ours.data.batches[0])
        end_to_end.report(ours, plain, args, difference)
    told = capsys.readouterr().out
    assert f"places of a batch {32 if loss == 'BPR' else 16}, " in told
    assert told.count("ratio") == 3


def test_a_side_that_computes_something_else_has_no_report(sides):
    (ours, plain), _ = sides()
    with closing(ours.live), closing(plain.live):
        with torch.no_grad():
            plain.vbpr.user_content.weight.mul_(1.1)
        with pytest.raises(SystemExit, match="no report"):
            end_to_end.check(ours, plain, ours.data.batches[0])
