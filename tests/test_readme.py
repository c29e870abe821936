"""The README says what the registries say."""

import re
from pathlib import Path

import pytest

from mmenc_plugin.cli.list import KINDS, markdown

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_tables_are_those_of_the_registries(kind):
    """If this fails: paste the output of `mmenc list <kind> --markdown` between the marks."""
    block = re.search(rf"<!-- mmenc list {kind} --markdown -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert block
    assert block[1].strip() == markdown(kind)


def test_two_commands_stand_at_the_top():
    commands = re.findall(r"```\n(pip install .*)\n```", README)
    assert commands[:2] == [
        "pip install . && mmenc run --model=VBPR --dataset=demo --baselines=BPR,LightGCN",
        "pip install '.[test]' && pytest",
    ]


def test_the_python_example_runs(tmp_path, monkeypatch):
    from PIL import Image

    folder = tmp_path / "dataset" / "shop"
    (folder / "images").mkdir(parents=True)
    for name in ("a", "b"):
        Image.new("RGB", (20, 20), "red").save(folder / "images" / f"{name}.png")
    (folder / "shop.item").write_text(
        "item_id:token\ttitle:token_seq\timage:token\ni1\tred dress\ta.png\ni2\tblue shoe\tb.png\n"
    )
    monkeypatch.chdir(tmp_path)
    example = re.search(r"```python\n(from pathlib.*?)```", README, re.DOTALL)[1]
    names = {}
    exec(example, names)
    assert names["table"].values.shape == (2, names["block"].values.shape[1])
