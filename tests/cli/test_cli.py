"""The command, as a user meets it."""

import subprocess

import pytest

from mmenc_plugin import cli


def mmenc(capsys, *argv):
    status = cli.main(argv)
    out, err = capsys.readouterr()
    return status, out, err


def test_no_command_prints_what_there_is(capsys):
    status, out, _ = mmenc(capsys)
    assert status == 0
    assert all(command in out for command in ("run", "extract", "inspect", "list", "doctor"))


@pytest.mark.parametrize("command", ["run", "extract", "inspect", "list", "doctor"])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    assert f"mmenc {command}" in capsys.readouterr().out.split("example")[1]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["run", "--epochz=3"], "no setting named 'epochz'"),
        (["run", "--epochs", "3"], "argument '--epochs' is not of the form --key=value"),
        (["run", "--x=a=b"], "has two '='"),
        (["run", "--model=VBBR"], "Did you mean 'VBPR'"),
        (["run", "--config_files=nowhere.yaml"], "nowhere.yaml"),
        (["extract", "--dataset=nowhere"], "nowhere"),
        (["extract", "--encoder=openclip:ViT-B-32/laion"], "no OpenCLIP weights tag of ViT-B-32 named 'laion'"),
        (["list", "extra"], "invalid choice"),
    ],
)
def test_errors_are_one_paragraph(argv, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = cli.main(argv)
    except SystemExit as stop:  # argparse
        status = stop.code
    err = capsys.readouterr().err
    assert status != 0
    assert message in err
    assert "Traceback" not in err


def test_debug_shows_the_traceback(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = mmenc(capsys, "run", "--debug", "--epochz=3")
    assert status == 2
    assert "Traceback" in err


def test_extract_fills_the_store_and_says_where(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = mmenc(capsys, "extract", "--dataset=demo", "--show_progress=False")
    assert status == 0
    assert "image: 400 of 400 items, width 200, features/image-classic-" in out
    assert "text: 400 of 400 items, width 1024, features/text-classic-" in out
    assert len(list((tmp_path / "features").glob("*/manifest.json"))) == 2


def test_extract_lists_what_was_rejected(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "small.inter").write_text("user_id:token\titem_id:token\nu\ta\n")
    (folder / "small.item").write_text("item_id:token\ttitle:token_seq\timage:token\na\tred shoe\tgone.jpg\nb\t\t\n")
    argv = ["extract", "--dataset=small", f"--data_path={tmp_path}", "--item_text=title", "--modalities=text"]
    status, out, _ = mmenc(capsys, *argv, "--show_progress=False")
    assert status == 0
    assert "text: 1 of 2 items" in out
    assert "b: no text" in out


def test_doctor_finds_nothing_to_mend_here(capsys):
    status, out, _ = mmenc(capsys, "doctor")
    assert status == 0
    assert "nothing must be mended" in out
    assert "[applied] missing values" in out


def test_doctor_names_the_line_for_an_old_recbole_and_a_missing_extra(capsys, monkeypatch):
    from mmenc_plugin.cli import doctor

    found = doctor._version
    versions = {"recbole": "1.2.0", "open_clip_torch": None, "torch": "2.14.0"}
    monkeypatch.setattr(doctor, "_version", lambda package: versions.get(package, found(package)))
    status, out, _ = mmenc(capsys, "doctor")
    assert status == 1
    assert "pip install --no-deps recbole==1.2.1" in out
    assert "pip install 'mmenc-plugin[openclip]'" in out
    assert "torch 2.14.0 is outside the tested range: pip install 'torch>=2.6,<2.14'" in out


def test_list_markdown_is_a_table(capsys):
    _, out, _ = mmenc(capsys, "list", "models", "--markdown")
    assert out.startswith("| model | paper |\n| --- | --- |\n| BM3 |")
    assert "\n| VBPR |" in out


def test_module_is_installed_as_a_command():
    done = subprocess.run(["mmenc", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("mmenc-plugin ")


def test_a_misspelt_baseline_stops_before_anything_is_trained(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = mmenc(capsys, "run", "--baselines=BPR,LigtGCN")
    assert status == 2
    assert "Did you mean 'LightGCN'" in err
    assert not (tmp_path / "saved").exists()
