"""Several processes train an encoder in RecBole, started by RecBole or by torchrun, and end with the same weights."""

import json
import os
import socket
import subprocess
import sys

import live_shop
import pytest
import torch
from safetensors.torch import load_file

from mmenc_plugin import encoders
from mmenc_plugin.training import checkpoints

RUN = """
import sys
from recbole.quick_start import run
if __name__ == "__main__":
    import json
    port, settings = sys.argv.pop(), json.loads(sys.argv.pop())
    run("VBPR", "tiny", config_dict=settings, nproc=2, port=port)
"""


@pytest.fixture
def shop(tmp_path, tiny_clip):
    """Batches of four: some hold no picture of one process's half, and item 3 has none."""
    settings = {**live_shop.SETTINGS, **live_shop.make(tmp_path), "encoder": f"openclip:local-dir:{tiny_clip}"}
    return settings | {"itc_weight": 0.1, "train_batch_size": 4, "tune": "top:1", "warm_start_epochs": 1}


def start(folder, *arguments):
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return str(probe.getsockname()[1])


def yaml_of(settings, path):
    path.write_text(json.dumps(settings))  # JSON is YAML
    return str(path)


def check_end(folder, settings, epochs):
    """The encoder has moved from where it was, and is on the disk as the checkpoint has it."""
    state = checkpoints.read(folder / "resume" / "VBPR-tiny")
    assert (state["epoch"], state["finished"], len(state["random"])) == (epochs, True, 2)
    trained = {name: value for name, value in state["model"].items() if "encoders" in name}
    before = dict(encoders.build(settings["encoder"]).named_parameters())
    moved = [n for n, value in trained.items() if not torch.equal(value, before[n.partition("encoders.0.")[2]])]
    assert len(moved) > len(trained) / 2
    (encoder,) = (folder / "saved").glob("VBPR-*-encoder")
    assert (encoder / "lineage.json").is_file()
    return load_file(next((folder / "resume").rglob("state.safetensors")))


def test_two_processes_of_recbole_train(shop, tmp_path):
    settings = shop | {"resume_dir": str(tmp_path / "resume"), "epochs": 2}
    (tmp_path / "script.py").write_text(RUN)
    start(tmp_path, "script.py", json.dumps(settings), free_port())
    check_end(tmp_path, settings, 2)


def test_torchrun_trains_and_prints_once(shop, tmp_path):
    settings = yaml_of({**shop, "epochs": 2, "schedule": "constant"}, tmp_path / "s.yaml")
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}", "-m"]
    command = [*torchrun, "mmenc_plugin", "run", "-d=tiny", f"--config_files={settings}", "--resume=resume"]
    output = start(tmp_path, *command)
    assert output.count("tiny, test set") == 1
    check_end(tmp_path, shop, 2)
