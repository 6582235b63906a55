import dataclasses
import io
import pickle

import pytest
import torch

from resq_deploy.errors import CheckpointError
from resq_deploy.hardening.checkpoint import Checkpoint, load_checkpoint, save_payload
from resq_deploy.networks.registry import build_network


@pytest.fixture
def checkpoint():
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.2, 0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("resnet8", num_classes=3, mean=mean, std=std, image_size=8)
    return Checkpoint(
        network="resnet8",
        classes=("a", "b", "c"),
        mean=mean,
        std=std,
        image_size=8,
        dataset="colours",
        stage="attack",
        lineage=("baseline", "attack"),
        epoch=3,
        metrics={"clean_accuracy": 0.5},
        state=network.state_dict(),
    )


def test_a_checkpoint_comes_back_whole(checkpoint, tmp_path, images):
    path = tmp_path / "a.pt"
    checkpoint.save(path)
    loaded = load_checkpoint(path)
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state":
            assert getattr(loaded, field.name) == getattr(checkpoint, field.name)
    network = loaded.build()
    assert not network.training
    assert torch.equal(network(images), checkpoint.build()(images))


def whole(checkpoint, path):
    checkpoint.save(path)
    return path.read_bytes()


class Hostile:
    def __reduce__(self):
        return (print, ("code of the file was run",))


def pickled_code(checkpoint, path):
    return pickle.dumps(Hostile())


def foreign(checkpoint, path):
    buffer = io.BytesIO()
    torch.save({"state_dict": checkpoint.state}, buffer)
    return buffer.getvalue()


def newer(checkpoint, path):
    buffer = io.BytesIO()
    torch.save({"format": "resq-deploy checkpoint", "schema": 99}, buffer)
    return buffer.getvalue()


def without_state(checkpoint, path):
    save_payload(path, {"network": "resnet8"}, kind="resq-deploy checkpoint")
    return path.read_bytes()


def spoilt(**changes):
    def make(checkpoint, path):
        fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
        save_payload(path, fields | changes, kind="resq-deploy checkpoint")
        return path.read_bytes()

    return make


def with_weight(tensor):
    return spoilt(state={"body.conv1.weight": tensor})


def damaged(checkpoint, path):
    content = bytearray(whole(checkpoint, path))
    content[: len(content) // 8] = bytes(len(content) // 8)
    return bytes(content)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda *_: b"", "no readable"),
        (lambda *_: b"\x80\x02 not a checkpoint", "no readable"),
        (lambda *args: whole(*args)[:-1000], "no readable"),
        (damaged, "no readable"),
        (pickled_code, "no readable"),
        (foreign, "is no resq-deploy checkpoint"),
        (newer, "schema version 99"),
        (without_state, "incomplete"),
        (spoilt(mean=("a", "b", "c")), "mean and std are no numbers"),
        (with_weight(torch.eye(2).to_sparse()), "other than dense tensors"),
        (with_weight(torch.tensor([float("nan")])), "'body.conv1.weight' holds a number that is not finite"),
    ],
    ids=[
        *["empty", "garbage", "truncated", "damaged", "code", "foreign", "newer", "incomplete"],
        *["mean", "sparse", "nan"],
    ],
)
def test_an_unusable_file_is_one_line(checkpoint, tmp_path, capsys, make, message):
    path = tmp_path / "bad.pt"
    path.write_bytes(make(checkpoint, path))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(CheckpointError, match="No such file"):
        load_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": "resnet20"}, "lacks 'body.layer1.1"),
        ({"classes": ("a", "b")}, r"shape \[3, 64\]"),
    ],
    ids=["other network", "other classes"],
)
def test_weights_of_another_architecture_are_one_line(checkpoint, change, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        dataclasses.replace(checkpoint, **change).build()
    assert "\n" not in str(caught.value)


def test_unknown_weights_are_refused(checkpoint):
    state = {**checkpoint.state, "body.extra": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"holds 'body\.extra'"):
        dataclasses.replace(checkpoint, state=state).build()
