import sys

import pytest
import torch

from resq_deploy.errors import ModelError
from resq_deploy.networks import build_network

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

MODULE = """
import helper
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, num_classes, taps=None, head=nn.Linear):
        super().__init__()
        if taps is not None:
            self.taps = taps
        self.fc = head(8, num_classes)
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU())
        self.unused = nn.Sequential(nn.Conv2d(8, 8, 3))

    def forward(self, x):
        return self.fc(self.late(self.early(x)).mean((2, 3)))


def plain(num_classes):
    return Model(num_classes)


def chosen(num_classes):
    return Model(num_classes, taps=["early.0", "late"])


def wrapped(num_classes):
    return nn.Sequential(nn.Sequential(Model(num_classes)))


def convolutional(num_classes):
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, num_classes, 1), nn.Flatten()
    )


def frozen(num_classes):
    model = Model(num_classes)
    model.eval()
    return model


def missing_tap(num_classes):
    return Model(num_classes, taps=["middle"])


def unused_tap(num_classes):
    return Model(num_classes, taps=["unused"])


def text_tap(num_classes):
    return Model(num_classes, taps="early")


class Pair(nn.Module):
    def forward(self, x):
        return x, x


def tuple_tap(num_classes):
    class Paired(Model):
        def __init__(self):
            super().__init__(num_classes, taps=["pair"])
            self.pair = Pair()

        def forward(self, x):
            return super().forward(self.pair(x)[0])

    return Paired()


class Auxiliary(nn.Module):
    def __init__(self, num_classes, kind):
        super().__init__()
        self.kind = kind
        self.early = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU())
        self.side, self.fc = nn.Linear(8, num_classes), nn.Linear(8, num_classes)

    def forward(self, x):
        features = self.early(x).mean((2, 3))
        logits = self.fc(features)
        return self.kind((logits, self.side(features))) if self.training else logits


def auxiliary(num_classes):
    return Auxiliary(num_classes, tuple)


def auxiliary_list(num_classes):
    return Auxiliary(num_classes, list)


def ten_always(num_classes):
    return Model(10)


def spatial(num_classes):
    return nn.Sequential(nn.Conv2d(3, num_classes, 3))


def tuple_output(num_classes):
    return nn.Sequential(Model(num_classes), Pair())


def wrong_channels(num_classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(8, num_classes))


def no_layer(num_classes):
    return nn.Flatten()


def number(num_classes):
    return num_classes


def failing(num_classes):
    raise RuntimeError("out of\\nideas")


def no_argument():
    return Model(4)


constant = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A module `mynet`, and one that cannot be imported, in the current directory."""
    (tmp_path / "mynet.py").write_text(MODULE)
    (tmp_path / "helper.py").write_text("")
    (tmp_path / "broken_net.py").write_text("def make(:\n")
    (tmp_path / "needy_net.py").write_text("import no_such_package_at_all\n")
    monkeypatch.chdir(tmp_path)
    yield
    for name in ("mynet", "helper", "broken_net", "needy_net"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("function", "taps", "head"),
    [
        pytest.param("plain", ("early", "late"), "fc", id="stages in the order they run"),
        pytest.param("chosen", ("early.0", "late"), "fc", id="taps of the user"),
        pytest.param("wrapped", ("0.0.early", "0.0.late"), "0.0.fc", id="stages below single children"),
        pytest.param("convolutional", ("0",), "2", id="a convolution for a head"),
        pytest.param("frozen", ("early", "late"), "fc", id="given in eval mode"),
        pytest.param("Model", ("early", "late"), "fc", id="a class"),
    ],
)
def test_a_network_of_the_user(function, taps, head):
    path = list(sys.path)
    network = build_network(f"mynet:{function}", num_classes=4, mean=MEAN, std=STD)
    assert sys.path == path
    assert network.training
    assert (network.taps, network.head) == (taps, head)
    logits, features = network.forward_with_taps(torch.rand(5, 3, 32, 32))
    assert logits.shape == (5, 4)
    assert list(features) == [*taps, "penultimate"]
    assert features["penultimate"].shape == (5, 8)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param(":make", "write module:function", id="no module"),
        pytest.param("mynet:", "write module:function", id="no function"),
        pytest.param("no_such_net:make", "No module named 'no_such_net'", id="missing module"),
        pytest.param("needy_net:make", "No module named 'no_such_package_at_all'", id="missing import of the module"),
        pytest.param("broken_net:make", "SyntaxError", id="module with a syntax error"),
        pytest.param(".relative:make", "cannot import", id="relative module"),
        pytest.param("mynet:make", "has no function 'make'", id="missing function"),
        pytest.param("mynet:constant", "has no function 'constant'", id="not callable"),
        pytest.param("mynet:failing", "RuntimeError: out of ideas", id="function that raises"),
        pytest.param("mynet:no_argument", "unexpected keyword argument 'num_classes'", id="function without argument"),
        pytest.param("mynet:number", "returned a int: it must return a torch.nn.Module", id="no module returned"),
        pytest.param("mynet:ten_always", r"returns \[2, 10\] .* logits \[N, 4\]", id="wrong number of classes"),
        pytest.param("mynet:spatial", r"returns \[2, 4, 30, 30\]", id="no logits"),
        pytest.param("mynet:tuple_output", "returns tuple", id="two outputs"),
        pytest.param("mynet:wrong_channels", r"cannot take images \[2, 3, 32, 32\]: RuntimeError", id="other images"),
        pytest.param("mynet:no_layer", "runs no Linear or Conv2d", id="no layer with weights"),
        pytest.param("mynet:missing_tap", "names 'middle'", id="a tap that is not there"),
        pytest.param("mynet:unused_tap", "'unused' was not run", id="a tap that is not run"),
        pytest.param("mynet:text_tap", "must be a list of module paths", id="taps in a string"),
        pytest.param("mynet:tuple_tap", "'pair' returns a tuple", id="a tap that returns two tensors"),
    ],
)
def test_an_unusable_one_is_one_line(spec, message):
    with pytest.raises(ModelError, match=message) as error:
        build_network(spec, num_classes=4, mean=MEAN, std=STD)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("function", ["auxiliary", "auxiliary_list"])
def test_of_several_outputs_in_training_the_first_is_taken(function):
    network = build_network(f"mynet:{function}", num_classes=4, mean=MEAN, std=STD)
    images = torch.rand(5, 3, 32, 32)
    assert network.training
    logits, features = network.forward_with_taps(images)
    assert torch.equal(logits, network.eval()(images))
    assert torch.equal(logits, network.body.fc(features["penultimate"]))
