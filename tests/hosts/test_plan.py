"""`mmenc run --plan`, and what a lack of memory is answered with."""

import pytest
import torch

from mmenc_plugin.cli import main
from mmenc_plugin.errors import NoMemoryError
from mmenc_plugin.models.vbpr import VBPR
from mmenc_plugin.training.memory import finetune_ways, lighter


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys, tiny_clip):
    """plan(*settings): what is printed for VBPR on the demo."""
    monkeypatch.chdir(tmp_path)

    def printed(*settings):
        given = [
            "--plan",
            f"--encoder=openclip:local-dir:{tiny_clip}",
            "--epochs=6",
            "--train_batch_size=256",
            *settings,
        ]
        assert main(["run", *given]) == 0
        return capsys.readouterr().out

    return printed


@pytest.mark.parametrize("paradigm", ["frozen", "finetuned", "end_to_end"])
def test_a_plan_trains_and_writes_nothing(plan, tmp_path, paradigm):
    told = plan(f"--paradigm={paradigm}")
    assert told.startswith(f"VBPR on demo, paradigm {paradigm}\ndevice: CPU")
    assert "fits into" in told
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pth", ".safetensors")]
    assert ("fine-tune the encoder" in told) == (paradigm == "finetuned")
    assert ("train encoder and recommender" in told) == (paradigm == "end_to_end")


def test_items_that_the_store_has_are_not_encoded_again(plan, tmp_path, tiny_clip):
    place = "--feature_dir=store", "--item_text=title"
    before = plan(*place)
    assert "image: 400 of 400 items have to be encoded" in before
    assert (
        main(["extract", f"--encoder=openclip:local-dir:{tiny_clip}", "--feature_dir=store", "--item_text=title"]) == 0
    )
    after = plan("--feature_dir=store", "--item_text=title")
    assert "image: 0 of 400 items have to be encoded" in after
    assert "encode image" not in after


def fail_with(error, monkeypatch):
    def loss(self, batch):
        raise error

    monkeypatch.setattr(VBPR, "loss", loss)


@pytest.fixture
def train(tmp_path, monkeypatch):
    """train(): one epoch of VBPR on the demo, in RecBole."""
    from recbole.quick_start import run_recbole

    monkeypatch.chdir(tmp_path)
    settings = {"epochs": 1, "show_progress": False, "state": "ERROR", "embedding_size": 8, "train_batch_size": 512}
    return lambda: run_recbole(model="VBPR", dataset="demo", config_dict=settings)


def test_a_lack_of_memory_names_the_settings_to_change(train, monkeypatch):
    with pytest.raises(RuntimeError) as real:
        torch.empty(10**15)
    fail_with(real.value, monkeypatch)
    with pytest.raises(
        NoMemoryError, match="train_batch_size to less than 512, or embedding_size to less than 8"
    ) as told:
        train()
    assert "a training step of 512 interactions does not fit into the memory of cpu" in str(told.value)
    assert told.value.__cause__ is real.value


def test_other_errors_stay_as_they_are(train, monkeypatch):
    fail_with(RuntimeError("something else"), monkeypatch)
    with pytest.raises(RuntimeError, match=r"^something else$"):
        train()


def test_settings_that_take_less_than_those_given():
    plain = {"tune": "full", "gradient_checkpointing": False, "autocast": "none", "finetune_chunk": 32}
    tunes = [{"tune": tune} for tune in ("lora:8", "top:2", "head")]
    assert lighter(plain) == [{"gradient_checkpointing": True}, {"autocast": "bfloat16"}, *tunes]
    assert lighter({**plain, "tune": "lora:4", "gradient_checkpointing": True}) == [
        {"autocast": "bfloat16"},
        *tunes[1:],
    ]
    assert lighter({"tune": "head", "gradient_checkpointing": True, "autocast": "bfloat16"}) == []
    assert finetune_ways(plain)[0] == "finetune_chunk to less than 32"
