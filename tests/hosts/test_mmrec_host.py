"""MMRec as a host: installing into a checkout and leaving it as it was, and our models behind its interface.

MMRec itself is not here. `checkout` has the files that its loader, trainer and base class would have, as far as they
meet ours; that the real ones take our models is tried by hand.
"""

import importlib
import sys
import types

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from mmenc_plugin import cli, models
from mmenc_plugin.features import AlignedFeatures, FrozenFeatures
from mmenc_plugin.testing.samples import checkerboard

BASE = """
import torch
class GeneralRecommender(torch.nn.Module):
    def __init__(self, config, dataloader):
        super().__init__()
        self.v_feat, self.t_feat = config["v"], config["t"]
"""


class Config(dict):
    def __missing__(self, key):
        return None


@pytest.fixture
def checkout(tmp_path):
    for path, text in {
        "src/main.py": "",
        "src/models/vbpr.py": "theirs",
        "src/configs/model/VBPR.yaml": "theirs",
        "src/common/abstract_recommender.py": BASE,
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def mmrec(capsys, *argv):
    status = cli.main(["mmrec", *map(str, argv)])
    return status, *capsys.readouterr()


def test_uninstalling_leaves_the_checkout_as_it_was(checkout, capsys):
    before = tree(checkout)
    status, out, _ = mmrec(capsys, "install", checkout)
    assert status == 0
    assert all(f"{name}_MMENC" in out for name in models.registry.names())
    assert {k: v for k, v in tree(checkout).items() if k in before} == before
    assert len(tree(checkout)) == len(before) + 2 * len(models.registry.names()) + 1
    cache = checkout / "src/models/__pycache__"
    cache.mkdir()
    (cache / "vbpr_mmenc.cpython-311.pyc").write_text("")
    assert mmrec(capsys, "install", checkout, "--models", "VBPR")[0] == 0  # renewed, with fewer
    assert len(tree(checkout)) == len(before) + 3
    assert mmrec(capsys, "uninstall", checkout)[0] == 0
    assert tree(checkout) == before


def test_what_somebody_changed_is_not_taken_away(checkout, capsys):
    mmrec(capsys, "install", checkout, "--models", "VBPR")
    yaml = checkout / "src/configs/model/VBPR_MMENC.yaml"
    yaml.write_text(yaml.read_text() + "n: 1\n")
    for action in ("install", "uninstall"):
        status, _, err = mmrec(capsys, action, checkout)
        assert status == 2
        assert "1 of our files were changed since ('src/configs/model/VBPR_MMENC.yaml')" in err
    assert yaml.exists()
    assert mmrec(capsys, "uninstall", checkout, "--force")[0] == 0
    assert not yaml.exists()


def test_what_is_wrong_is_said(checkout, tmp_path, capsys):
    cases = {
        ("install", tmp_path / "no"): "is no checkout of MMRec: it lacks 'src/main.py'",
        ("uninstall", checkout): "nothing of ours is installed there. Was it moved?",
        ("install", checkout, "--models", "VBRP"): "no model named 'VBRP'. Did you mean 'VBPR'?",
        ("install", checkout, "--epochs=3"): "argument '--epochs=3' is not known",
    }
    for argv, message in cases.items():
        status, _, err = mmrec(capsys, *argv)
        assert status == 2
        assert message in err
    (checkout / "src/models/vbpr_mmenc.py").write_text("somebody else's")
    assert "is there already and not ours" in mmrec(capsys, "install", checkout)[2]
    (checkout / "src/common/abstract_recommender.py").write_text("class Model: pass")
    assert "this version of MMRec is not known" in mmrec(capsys, "install", checkout)[2]
    (checkout / ".mmenc.json").write_text('{"../../etc/passwd": "0"}')
    assert "is damaged" in mmrec(capsys, "uninstall", checkout)[2]


@pytest.fixture
def face(checkout, monkeypatch, capsys):
    """face(name): our model's class, imported as MMRec imports it."""
    mmrec(capsys, "install", checkout)
    ours = ("models", "common")
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in ours}
    monkeypatch.syspath_prepend(str(checkout / "src"))
    from mmenc_plugin.hosts.mmrec import models as faces

    faces._face_of.cache_clear()
    yield lambda name: getattr(importlib.import_module(f"models.{name.lower()}"), name)
    for name in [n for n in sys.modules if n.split(".")[0] in ours]:
        del sys.modules[name]
    sys.modules.update(kept)


def loader(data):
    inter = data.interactions
    ones = np.ones(len(inter.users))
    matrix = sp.coo_matrix((ones, (inter.users.numpy(), inter.items.numpy())), shape=(inter.n_users, inter.n_items))
    return types.SimpleNamespace(inter_matrix=lambda form: matrix.asformat(form))


def features(data):
    return Config(
        v=data.features.table("image"), t=data.features.table("text"), embedding_size=8, feature_scaling="none"
    )


@pytest.mark.parametrize("name", models.registry.names())
def test_a_model_has_the_loss_and_scores_that_it_has_elsewhere(face, name):
    data = checkerboard()
    torch.manual_seed(0)
    theirs = face(f"{name}_MMENC")(features(data), loader(data))
    torch.manual_seed(0)
    everywhere = torch.ones(data.interactions.n_items, dtype=torch.bool)  # MMRec's files say nothing of what is missing
    tables = {m: AlignedFeatures(data.features.table(m), everywhere) for m in data.features.modalities}
    ours = models.build(name, {"embedding_size": 8}, FrozenFeatures(tables), data.interactions)
    ours.load_state_dict(theirs.model.state_dict())
    batch = data.batch(torch.Generator().manual_seed(1))
    for model in (theirs, ours):
        model.train()
    torch.manual_seed(2)
    theirs.pre_epoch_processing()
    found = theirs.calculate_loss(torch.stack([batch.users, batch.positives, batch.negatives]))
    torch.manual_seed(2)
    ours.begin_epoch()
    expected = torch.stack([torch.zeros(()), *ours.loss(batch).values()]).sum()  # no parts where nothing is learned
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.requires_grad
    theirs.eval()
    with torch.no_grad():
        users = torch.tensor([1, 5])
        scores = theirs.full_sort_predict([users, None])
        torch.testing.assert_close(scores, ours.eval().scores(users), rtol=1e-5, atol=1e-6)
    assert theirs.v_feat is None


def test_features_that_do_not_fit_are_refused(face):
    data = checkerboard()
    kind, config = face("VBPR_MMENC"), features(data)
    with pytest.raises(ValueError, match="the image features have 24 rows, but MMRec's data set has 25 items"):
        kind(Config(config, v=config["v"][1:]), loader(data))
    with pytest.raises(
        ValueError, match=r"modalities asks for 'image', but MMRec has found features of \['text'\] alone"
    ):
        kind(Config(config, v=None, modalities=["image", "text"]), loader(data))
    with pytest.raises(ValueError, match=r"paradigm is 'end_to_end', but MMRec .* trains no encoder: leave it out"):
        kind(Config(config, paradigm="end_to_end"), loader(data))
    with pytest.raises(ValueError, match="embedding_size is 0"):
        kind(Config(config, embedding_size=0), loader(data))
    assert kind(Config(config, v=None), loader(data)).model.features.modalities == ("text",)
