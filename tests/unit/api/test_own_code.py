"""A network, weights or a class that cannot be used are told before the images of a data set are decoded."""

import pathlib

import numpy as np
import pytest
from PIL import Image

import resq_deploy as rd
from resq_deploy.data import folder
from resq_deploy.errors import CheckpointError, ModelError, OptionError

torch = pytest.importorskip("torch")

FILE = pathlib.Path(__file__).parents[3] / "models" / "resnet8-digits-baseline.int8.onnx"
NETWORK = (
    "from torch import nn\n\n\ndef build(num_classes):\n    return nn.Sequential(nn.Flatten(), nn.Linear({}, {}))\n"
)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder with ten classes of images, of which no more than one may be decoded, and networks for them."""
    monkeypatch.chdir(tmp_path)
    for label in range(10):
        (tmp_path / "photos" / f"class{label}").mkdir(parents=True)
        for number in range(5):
            Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(f"photos/class{label}/{number}.png")
    pathlib.Path("flat_net.py").write_text(NETWORK.format(8 * 8 * 3, "num_classes"), encoding="utf-8")
    pathlib.Path("eleven_net.py").write_text(NETWORK.format(8 * 8 * 3, 11), encoding="utf-8")
    pathlib.Path("large_net.py").write_text(NETWORK.format(7, "num_classes"), encoding="utf-8")
    pathlib.Path("broken_net.py").write_text("import nowhere_at_all\n", encoding="utf-8")
    torch.save({"other.weight": torch.zeros(3, 3)}, "other.pth")
    decode = folder.decode

    def at_most_one(files, *rest):
        assert len(files) == 1, "the data set was decoded"
        return decode(files, *rest)

    monkeypatch.setattr(folder, "decode", at_most_one)
    return "photos"


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("nowhere:build", "cannot import 'nowhere'"),
        ("broken_net:build", "No module named 'nowhere_at_all'"),
        ("flat_net:make", "has no function 'make'"),
        ("eleven_net:build", "it must return logits"),
        ("large_net:build", "cannot take images"),
    ],
)
@pytest.mark.parametrize("weights", [None, "other.pth"], ids=["fresh", "weights"])
def test_a_network_that_cannot_be_built(photos, network, words, weights):
    with pytest.raises(ModelError, match=words):
        rd.harden(network, photos, out="run", weights=weights, preprocess="none")
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize("preprocess", ["none", "dataset", "imagenet"])
def test_weights_that_do_not_fit_a_training(photos, preprocess):
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        rd.harden("flat_net:build", photos, out="run", weights="other.pth", preprocess=preprocess)
    assert not pathlib.Path("run").exists()


@pytest.mark.parametrize("network", ["flat_net:build", "resnet8"])
def test_weights_that_do_not_fit_an_export_or_an_attack(photos, network):
    given = {"network": network, "weights": "other.pth", "preprocessing": rd.preprocessing("none")}
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        rd.export_int8(None, photos, "net.onnx", **given)
    with pytest.raises(CheckpointError, match=r"other\.pth"):
        rd.attackcamp(FILE, photos, out="run", attacks="transfer-pgd", **given)


def test_a_class_that_is_none(photos):
    with pytest.raises(OptionError, match="has no such class"):
        rd.attackcamp(FILE, photos, out="run", attacks="bit-flip", bit_flip_target="cat")
