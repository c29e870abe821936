"""Fine-tuning killed at random moments, or started twice at once: it ends with the undisturbed weights."""

import json
import sys
from pathlib import Path

MOMENTS = 3

# Forks processes that fine-tune, from a parent that has imported everything and built the encoder once.
DRIVER = """
import hashlib, json, os, random, signal, sys, time
from pathlib import Path
checkpoint, folder, shapes, moments = sys.argv[1:]
sys.path.insert(0, shapes)
import torch
from shapes import make_shapes
from mmenc_plugin import encoders
from mmenc_plugin.settings import FinetuneSettings, TuningSettings
from mmenc_plugin.training import loop
from mmenc_plugin.training.finetune import finetune
from mmenc_plugin.training.task import Task

torch.set_num_threads(1)
loop.SAVE_SECONDS = -1.0  # before every step
folder = Path(folder)
base = f"hf:{checkpoint}"
encoders.build(base)
settings = FinetuneSettings(finetune_epochs=3, finetune_batch_size=6, finetune_chunk=3, finetune_validation=0.2)
task = Task(make_shapes(folder, 20), base, settings, TuningSettings(encoder_learning_rate=1e-3), store=folder / "store",
            show_progress=False)

def start(output):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            finetune(task, output)
            status = 0
        finally:
            os._exit(status)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

def digests(output):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()
            for p in [output / "report.json", *(output / "encoder").glob("*.safetensors")]}

began = time.monotonic()
assert end(start(folder / "undisturbed")) == 0
whole, chance = time.monotonic() - began, random.Random(0)
expected, killed, stages = digests(folder / "undisturbed"), 0, set()
for moment in range(int(moments)):
    output = folder / f"killed{moment}"
    for _ in range(2):
        child = start(output)
        time.sleep(whole * chance.uniform(0.1, 0.9))
        os.kill(child, signal.SIGKILL)
        killed += end(child) == -9
        stages |= {path.name for path in output.glob("state/epoch-*")}
    assert end(start(output)) == 0
    assert digests(output) == expected, moment
together = [start(folder / "together") for _ in range(2)]  # the second waits, and takes what the first has made
assert [end(child) for child in together] == [0, 0]
assert digests(folder / "together") == expected
print(json.dumps([killed, len(stages), len(expected)]))
"""


def test_processes_that_are_killed_or_meet_do_no_harm(tiny_hf_clip, tmp_path, python):
    shapes = Path(sys.modules[__name__].__file__).parents[1] / "training"
    result = python(DRIVER, tiny_hf_clip, tmp_path, shapes, MOMENTS, OMP_NUM_THREADS="1")
    assert result.returncode == 0, result.stderr
    killed, stages, files = json.loads(result.stdout.splitlines()[-1])
    assert killed >= MOMENTS
    assert stages >= 3
    assert files == 2
