"""mmenc extract with several processes: the command line of one, under torchrun."""

import hashlib
import os
import subprocess
import sys


def blocks(store):
    return {
        f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(store.glob("*-*/*"))
    }


def test_two_ranks_make_the_bytes_of_one_process(tmp_path):
    command = ["-m", "mmenc_plugin", "extract", "--dataset=demo"]
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=29551"]
    outputs = []
    for store, start in (("alone", []), ("ranks", launcher)):
        ran = subprocess.run(
            [sys.executable, *start, *command, f"--feature_dir={store}"],
            cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        outputs.append(ran.stdout)
    assert len(blocks(tmp_path / "alone")) == 8
    assert blocks(tmp_path / "ranks") == blocks(tmp_path / "alone")
    assert outputs[1] == outputs[0].replace("alone/", "ranks/")  # one of the ranks speaks
