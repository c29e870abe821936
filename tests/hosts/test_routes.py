"""Every way into RecBole knows our models, with nothing but the install. Each runs in its own process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from mmenc_plugin.hosts.recbole.trainer import MultimodalTrainer

FAST = (
    "--epochs=1 --show_progress=False --metrics=['Recall'] --valid_metric=Recall@20 --embedding_size=8 --content_size=8"
)

# As in the script of RecBole's repository: what it imports, and how it calls.
RUN_RECBOLE = """
import sys
from recbole.quick_start import run
if __name__ == "__main__":
    import json
    result = run("VBPR", "demo", nproc=int(sys.argv[1].split("=")[1]), port=sys.argv[2].split("=")[1])
    print("RESULT", json.dumps({k: float(v) for k, v in result["test_result"].items()}))
"""
RUN_HYPER = """
from recbole.trainer import HyperTuning
from recbole.quick_start import objective_function
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
hp = HyperTuning(objective_function, algo="exhaustive", params_file="grid.txt", fixed_config_file_list=["fixed.yaml"])
hp.run()
print("BEST", hp.best_params)
"""
LOAD = """
import glob, json
from recbole.quick_start import load_data_and_model
from recbole.utils import get_trainer
config, model, dataset, train, valid, test = load_data_and_model(glob.glob("saved/VBPR*.pth")[0])
trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
result = trainer.evaluate(test, load_best_model=False)
print("KIND", type(trainer).__module__, type(dataset).__module__, type(model).__module__)
print("RESULT", json.dumps({k: float(v) for k, v in result.items()}))
"""
PUBLIC_FUNCTION = """
import json
from recbole.quick_start import run_recbole
result = run_recbole(model="VBPR", dataset="demo")
print("RESULT", json.dumps({k: float(v) for k, v in result["test_result"].items()}))
"""


def python(folder: Path, code: str, *arguments: str, name: str = "script.py") -> str:
    (folder / name).write_text(code)
    return command(folder, sys.executable, name, *arguments)


def command(folder: Path, *argv: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def result(output: str) -> dict[str, float]:
    return json.loads(next(line for line in output.splitlines() if line.startswith("RESULT"))[7:])


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A working folder after a run of RecBole's own route, and the run's result."""
    folder = tmp_path_factory.mktemp("routes")
    return folder, result(python(folder, RUN_RECBOLE, "--nproc=1", "--port=5670", *FAST.split()))


@pytest.fixture
def folder(first):
    return first[0]


def test_the_run_function_trains_and_leaves_a_checkpoint(first):
    folder, metrics = first
    assert set(metrics) == {"recall@20"}
    assert 0 < metrics["recall@20"] < 1
    assert len(list((folder / "saved").glob("VBPR*.pth"))) == 1


def test_load_data_and_model_in_a_fresh_process(first):
    folder, metrics = first
    loaded = python(folder, LOAD)
    assert result(loaded) == metrics
    assert "KIND mmenc_plugin.hosts.recbole.trainer mmenc_plugin.hosts.recbole.dataset" in loaded
    assert "mmenc_plugin.hosts.recbole.adapter" in loaded


def test_a_checkpoint_holds_no_feature_table(folder):
    from mmenc_plugin.hosts.recbole import checkpoint

    saved = checkpoint.load(next((folder / "saved").glob("VBPR*.pth")))
    assert not [name for name in saved["state_dict"] if "features" in name]
    assert not [name for name in saved["state_dict"] if "total_ops" in name]


def test_run_recbole_function_gives_the_same_numbers(first):
    folder, metrics = first
    assert result(python(folder, PUBLIC_FUNCTION, *FAST.split())) == metrics


def test_two_spawned_processes_on_the_cpu(folder):
    output = python(folder, RUN_RECBOLE, "--nproc=2", f"--port={free_port()}", *FAST.split())
    assert 0 < result(output)["recall@20"] < 1


RANK_TWICE = """
import json, sys
from ranking_data import METRICS
from recbole.quick_start import run
if __name__ == "__main__":
    port = sys.argv[1].split("=")[1]
    del sys.argv[1:]
    settings = {"epochs": 0, "metrics": METRICS, "topk": [5, 20], "show_progress": False, "checkpoint_dir": "two"}
    settings["eval_slices"] = ["tail"]
    result = run("VBPR", "demo", config_dict={**settings, "content_size": 8}, nproc=2, port=port)["test_result"]
    parts = {"": result, "tail ": result.slices["tail"]["result"]}
    print("RESULT", json.dumps({part + k: float(v) for part, found in parts.items() for k, v in found.items()}))
"""


def test_two_processes_rank_as_one_does(folder, monkeypatch):
    """Coverage and the like are no means over users, so each process must know all lists."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    two = result(python(folder, RANK_TWICE, f"--port={free_port()}"))
    monkeypatch.chdir(folder)
    from recbole.quick_start import load_data_and_model

    checkpoint = next((folder / "two").glob("VBPR*.pth"))
    config, model, _, train, _, test = load_data_and_model(checkpoint)
    trainer = MultimodalTrainer(config, model)
    trainer.eval_collector.data_collect(train)
    one = trainer.evaluate(test, model_file=checkpoint)
    of_tail = {f"tail {name}": value for name, value in one.slices["tail"]["result"].items()}
    assert two == pytest.approx({name: float(value) for name, value in (one | of_tail).items()}, abs=1e-6)


def test_run_hyper_whether_or_not_ray_works(folder):
    (folder / "grid.txt").write_text("learning_rate choice [0.001,0.01]\nembedding_size choice [8,16]\n")
    (folder / "fixed.yaml").write_text("model: VBPR\ndataset: demo\nepochs: 1\nshow_progress: False\ncontent_size: 8\n")
    output = python(folder, RUN_HYPER, name="run_hyper.py")
    assert "'embedding_size'" in output[output.index("BEST") :]


def test_mmenc_run_prints_recboles_numbers_with_the_baseline_beside_them(first):
    folder, metrics = first
    output = command(folder, "mmenc", "run", "--model=VBPR", "--dataset=demo", "--baselines=BPR", *FAST.split())
    header, ours, baseline = output[output.index("demo, test set, full ranking") :].split("\n")[1:4]
    assert header.split() == ["model", "recall@20"]
    assert ours.split() == ["VBPR", f"{metrics['recall@20']:.4f}"]
    assert baseline.split()[0] == "BPR"


def test_ours_can_be_registered_late_without_the_path_file(tmp_path):
    code = """
import sys
assert not [m for m in sys.modules if m.startswith("mmenc_plugin")], "the path file ran"
import site; site.main()
sys.meta_path = [f for f in sys.meta_path if "mmenc" not in f.__module__]
for m in [m for m in sys.modules if m.startswith("mmenc_plugin")]: del sys.modules[m]
import recbole.config.configurator as already, recbole.trainer, recbole.data.dataset
import mmenc_plugin
mmenc_plugin.register()
from recbole.config import Config
from recbole.utils import get_model, get_trainer
sys.argv = ["x"]
config = Config("VBPR", "demo")
print(get_model("VBPR").__module__, get_trainer(config["MODEL_TYPE"], "VBPR").__name__)
"""
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.split() == ["mmenc_plugin.hosts.recbole.adapter", "MultimodalTrainer"], done.stderr[-2000:]
