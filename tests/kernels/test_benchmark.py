"""The benchmark of the kernels: it says no where an answer is wrong, and measures what it says."""

import functools
import sys
import types

import pytest
import torch
from benchmarks.kernels import (
    bpr_loss,
    cli,
    data,
    harness,
    loss_peers,
    measure,
    parity,
    peers,
    report,
    score_loss,
    score_topk,
)
from benchmarks.kernels.harness import PLAIN, Bench, Case, Result, Side, Target


def doubling(*more, wrong=0.0):
    """A benchmark of x -> 2 x, and of its gradient, whose ours is off by `wrong`."""

    def run(factor, given):
        return {"loss": (2 * given["x"]).sum(), "x": torch.full_like(given["x"], 2 + factor)}

    return Bench(
        "doubling",
        cases=lambda device, quick: [Case("of 8 numbers", {"N": 8}, targets=(Target("memory", 1.0),))],
        small=lambda device: [Case("of 3 numbers", {"N": 3})],
        inputs=lambda case, device: {"device": device, "x": torch.ones(case.sizes["N"])},
        sides=lambda case, device: [
            Side("ours", functools.partial(run, wrong), "ours"),
            Side(PLAIN, functools.partial(run, 0), "plain"),
            *more,
        ],
        expected=lambda case, given, dtype: run(0, given),
        check=lambda case, given, found, answer, role: parity.tensors(found, answer, {"loss": 1e-5, "gradient": 1e-5}),
    )


def page(monkeypatch, capsys, bench, *arguments):
    """What the program prints of it."""
    monkeypatch.setattr(cli, "bench", lambda name: bench)
    monkeypatch.setattr(measure, "in_own_process", lambda arguments: 1_000_000)
    cli.main(["bpr_loss", "--threads=1", "--rounds=2", *arguments])
    return capsys.readouterr().out


def test_a_page_holds_every_side_and_whether_the_targets_are_met(monkeypatch, capsys, tmp_path):
    printed = page(monkeypatch, capsys, doubling(), f"--out={tmp_path / 'page.md'}")
    assert torch.__version__ in printed
    assert "## doubling: of 8 numbers" in printed
    assert [line.split("|")[1].strip() for line in printed.splitlines() if line.startswith("| ")] == [
        "side", "ours", PLAIN,
    ]  # fmt: skip
    assert "target: memory of ours to the plain way, at most 1: 1, met" in printed
    assert (tmp_path / "page.md").read_text().strip() == printed.strip()


@pytest.mark.parametrize("shape", ["small", "timed"])
def test_no_table_where_ours_is_wrong_and_the_gradient_is_named(monkeypatch, capsys, shape):
    bench = doubling(wrong=1e-3)
    if shape == "timed":  # right in small, wrong at the size that is timed
        monkeypatch.setattr(cli, "check_small", lambda *_: ["N=3"])
    with pytest.raises(harness.Refusal, match=r"no table: doubling.*ours: gradient of x is off by 5\.0e-04"):
        page(monkeypatch, capsys, bench)
    assert "| ours" not in capsys.readouterr().out


def fails(given):
    raise RuntimeError("no luck\nfor a long reason")


def test_a_peer_that_cannot_run_or_differs_is_named_and_has_no_figures(monkeypatch, capsys):
    others = [
        Side("absent", fails, missing="not installed"),
        Side("broken", fails),
        Side("wrong", lambda given: {"loss": torch.zeros(()), "x": torch.full_like(given["x"], 2)}),
    ]
    printed = page(monkeypatch, capsys, doubling(*others))
    assert "- left out: absent: not installed" in printed
    assert "- left out: broken: RuntimeError: no luck\n" in printed
    assert "- left out: wrong: its answer differs: loss is off by 1.0e+00" in printed
    assert not [name for name in ("absent", "broken", "wrong") if f"| {name}" in printed]


def test_a_slow_side_runs_once(monkeypatch, capsys):
    runs = []
    side = Side("slow", lambda given: runs.append(1) or {"loss": torch.tensor(16.0), "x": given["x"] * 2}, once=True)
    printed = page(monkeypatch, capsys, doubling(side), "--rounds=3")
    assert len(runs) == 1
    assert "(once)" in next(line for line in printed.splitlines() if line.startswith("| slow"))


def test_the_page_of_a_gpu_begins_with_its_ceilings(monkeypatch, capsys):
    """Everything but the GPU: its clocks are replaced."""
    ceilings = types.SimpleNamespace(ceilings=lambda: "Ceilings: high.\n")
    monkeypatch.setitem(sys.modules, "benchmarks.kernels.ceilings", ceilings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(measure, "once", lambda run, device: run() and 0.002)
    monkeypatch.setattr(measure, "seconds", lambda run, device: 0.002)
    monkeypatch.setattr(measure, "peak_bytes", lambda run, device: 5_000_000)
    printed = page(monkeypatch, capsys, doubling(), "--device=cuda")
    assert printed.index("a GPU") < printed.index("Ceilings: high.") < printed.index("time, ms")
    ours = next(line for line in printed.splitlines() if line.startswith("| ours"))
    assert [cell.strip() for cell in ours.split("|")[1:-1]] == ["ours", "2.00", "1.0", "5", "1.000"]


@pytest.mark.parametrize("arguments", [["nothing"], ["--device=tpu"], ["--rounds=0"], ["--threads=0"], ["--nope"]])
def test_arguments_that_mean_nothing_are_refused(arguments):
    with pytest.raises(SystemExit) as caught:
        cli.parse(arguments)
    assert caught.value.code == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_gpus_benchmark_says_so(capsys):
    with pytest.raises(SystemExit):
        cli.parse(["--device=cuda"])
    assert "finds no GPU" in capsys.readouterr().err


def test_all_and_single_kernels():
    assert cli.parse([]).kernel == cli.parse(["all"]).kernel == cli.NAMES
    assert cli.parse(["score_topk", "score_loss"]).kernel == ("score_topk", "score_loss")


def test_the_gpus_shapes_are_those_of_the_targets():
    shapes = [
        (bench.name, case.form, *case.sizes.values(), next((t.at_most for t in case.targets if t.what == "ms"), None))
        for bench in (score_loss.BENCH, score_topk.BENCH, bpr_loss.BENCH)
        for case in bench.cases("cuda", False)
    ]
    million = 1_000_000
    assert shapes == [
        ("score_loss", "forward", 4096, million, 64, 1.7),
        ("score_loss", "label", 4096, million, 64, 6.0),
        ("score_loss", "label", 4096, million, 128, 9.5),
        ("score_loss", "label", 4096, million, 512, 24),
        ("score_loss", "full", 4096, million, 64, None),
        ("score_loss", "label", 8192, 8192, 512, 0.42),
        ("score_loss", "symmetric", 8192, 8192, 512, 0.42),
        ("score_loss", "symmetric", 32768, 32768, 512, 6.5),
        ("score_topk", "", 4096, million, 64, 20, 100, 1.6),
        ("score_topk", "", 4096, million, 64, 50, 100, 2.0),
        ("score_topk", "", 4096, million, 64, 100, 100, 2.7),
        ("score_topk", "", 4096, 10 * million, 128, 50, 100, 22),
        ("bpr_loss", "", 8192, 64, 64, 20_000, million, 0.25),
        ("bpr_loss", "", 8192, 512, 64, 20_000, million, None),
    ]


@pytest.mark.parametrize("bench", [score_loss.BENCH, score_topk.BENCH, bpr_loss.BENCH], ids=lambda b: b.name)
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_target_is_about_a_side_that_is_there(monkeypatch, bench, device):
    for module in (score_topk, loss_peers):  # whatever can run here, and without importing it
        monkeypatch.setattr(module, "missing", lambda *_, **__: "")
    monkeypatch.setattr(loss_peers, "_clip_missing", lambda _: "")
    for case in bench.cases(device, False):
        names = {side.name for side in bench.sides(case, device)}
        assert {target.against for target in case.targets} <= names


def test_the_loss_of_all_forms_is_that_of_a_loop():
    """`expected` is what every side is held against: its own check is Python, one row at a time."""
    for form in ("label", "full", "symmetric"):
        case = Case("", {"B": 5, "N": 5, "D": 3}, form)
        given = score_loss.inputs(case, "cpu")
        scores = given["queries"].double() @ given["items"].double().T * given.get("scale", torch.tensor(1.0)).double()
        scores = scores + given.get("bias", torch.zeros(5))
        if form == "full":
            for row, column in zip(data.rows_of(given["exclude"]).tolist(), given["exclude"][1].tolist(), strict=True):
                assert column != given["targets"][row]
                scores[row, column] = -torch.inf
        targets = given["targets"].tolist()
        loss = sum(scores[row].logsumexp(0) - scores[row, target] for row, target in enumerate(targets)) / 5
        if form == "symmetric":
            columns = sum(scores[:, row].logsumexp(0) - scores[row, row] for row in range(5)) / 5
            loss = (loss + columns) / 2
        assert float(score_loss.expected(case, given, torch.float64)["loss"]) == pytest.approx(float(loss), abs=1e-7)


def test_a_ranking_is_right_only_with_the_best_unseen_ids_once():
    case = score_topk.small("cpu")[1]
    given = score_topk.inputs(case, "cpu")
    answer = score_topk.expected(case, given, torch.float64)
    ids = answer["ids"]
    assert score_topk.check(case, given, {"ids": ids.clone()}, answer, "ours") == []
    for row in (0, 62):
        offsets, seen = given["exclude"]
        assert not set(ids[row].tolist()) & set(seen[offsets[row] : offsets[row + 1]].tolist())
    twice, turned, with_seen = ids.clone(), ids.flip(1), ids.clone()
    twice[3, 1], with_seen[0, 0] = twice[3, 0], given["exclude"][1][0]
    for found, reason in [(twice, "twice"), (turned, "other than the best"), (with_seen, "to be left out")]:
        assert reason in "; ".join(score_topk.check(case, given, {"ids": found}, answer, "ours"))
    assert score_topk.check(case, given, {"ids": ids[:, :5]}, answer, "ours")
    assert score_topk.check(case, given, {"ids": ids.clone().fill_(-1)}, answer, "ours")


def test_peers_of_the_ranking_agree():
    case = score_topk.small("cpu")[2]
    given = score_topk.inputs(case, "cpu")
    answer = score_topk.expected(case, given, torch.float64)
    for run in (score_topk.plain, functools.partial(score_topk.blocks, size=300)):
        assert score_topk.check(case, given, run(given), answer, "plain") == []


def test_nan_and_a_missing_gradient_are_no_answer():
    limits = {"loss": 1e-5, "gradient": 1e-5}
    answer = {"loss": torch.tensor(1.0), "items": torch.ones(3)}
    assert parity.tensors({**answer, "items": torch.tensor([1, 1, torch.nan])}, answer, limits)
    assert parity.tensors({"loss": answer["loss"]}, answer, limits) == ["gradient of items is not there"]
    assert parity.tensors({**answer, "items": torch.ones(4)}, answer, limits)
    assert parity.equal({"recall": torch.tensor(0.5)}, {"recall": torch.tensor(0.5001)})


def test_peak_memory_counts_what_is_freed_again_but_not_what_was_there():
    before = torch.ones(8_000_000)
    measured = measure.peak_bytes(lambda: (before + 1).sum(), "cpu")
    assert 31e6 < measured < 40e6


def test_time_is_of_this_process():
    assert measure.once(lambda: sum(range(2_000_000)), "cpu") > 0


def test_a_target_without_figures_is_not_met_silently():
    result = Result(seconds={"ours": [2.0, 2.0, 4.0]}, memory={"ours": 3}, ours="ours")
    assert report.verdict(Target("time", 0.5), result).endswith("not measured")
    result.seconds[PLAIN], result.memory[PLAIN] = [3.0, 2.0, 8.0], 3  # ratios of the rounds: 0.667, 1, 0.5
    assert report.verdict(Target("time", 0.5), result).endswith("0.667, NOT MET")
    assert report.verdict(Target("memory", 1.0), result).endswith("1, met")
    assert report.verdict(Target("ms", 1999.0), result).endswith("2e+03, NOT MET")


def test_why_a_peer_cannot_run():
    assert peers.missing("no_such_module", "no-such", "cpu") == "not installed (pip install no-such)"
    assert peers.missing("torch", "torch", "cpu", needs_gpu=True) == "needs a GPU"
    assert peers.missing("torch", "torch", "cpu") == ""
