import json

import pytest
import torch
import torch.nn.functional as F

from resq_deploy.errors import RunFolderError, TrainingError
from resq_deploy.grid import weight_scale
from resq_deploy.hardening import criticality
from resq_deploy.hardening.criticality import GradientNorms, measure, ranked


def test_the_average_is_freed_of_its_bias():
    norms = GradientNorms(memory=0.9)
    norms.add({"a": 5.0})
    assert norms.corrected()["a"] == pytest.approx(5.0)
    norms.add({"a": 1.0})
    assert norms.corrected()["a"] == pytest.approx((0.9 * 0.1 * 5 + 0.1 * 1) / (1 - 0.81))


def test_a_constant_norm_is_its_own_average():
    norms = GradientNorms(memory=0.9)
    for _ in range(7):
        norms.add({"a": 0.25})
        assert norms.corrected()["a"] == pytest.approx(0.25)


def test_one_batch_gives_the_norm_of_its_gradient(bench, monkeypatch):
    batch = next(bench.batches("b", epochs=1, epoch=0))
    monkeypatch.setattr(bench, "batches", lambda *_, **__: iter([batch]))
    ranking = {entry.layer: entry for entry in measure(bench)}
    bench.network.eval()
    F.cross_entropy(bench.network(batch.images), batch.labels).backward()
    for name, entry in ranking.items():
        weight = bench.network.get_submodule(name).weight
        assert entry.gradient == pytest.approx(weight.grad.norm().item(), rel=1e-4)
        step = weight_scale(weight.detach().numpy()).mean()
        assert entry.scaled == pytest.approx(entry.gradient * step, rel=1e-4)


def test_measuring_leaves_the_network_alone_and_sorts(bench):
    before = {name: value.clone() for name, value in bench.network.state_dict().items()}
    ranking = measure(bench)
    assert [entry.gradient for entry in ranking] == sorted((entry.gradient for entry in ranking), reverse=True)
    assert all(torch.equal(value, before[name]) for name, value in bench.network.state_dict().items())
    assert all(parameter.grad is None for parameter in bench.network.parameters())
    assert bench.network.training


def test_a_frozen_layer_is_ranked_and_one_never_reached_has_no_weight_in_it(bench):
    bench.network.body.conv1.requires_grad_(False)
    bench.network.spare = torch.nn.Linear(2, 2)
    ranking = {entry.layer: entry.gradient for entry in measure(bench)}
    assert ranking["body.conv1"] > 0
    assert ranking["spare"] == 0
    assert not bench.network.body.conv1.weight.requires_grad


def test_small_data_is_cycled_through(bench, monkeypatch):
    seen = []
    original = bench.batches

    def counting(*key, epochs, epoch):
        for batch in original(*key, epochs=epochs, epoch=epoch):
            seen.append(key)
            yield batch

    monkeypatch.setattr(bench, "batches", counting)
    monkeypatch.setattr(bench, "train", bench.train.head(16))
    measure(bench)
    assert [key[1] for key in seen] == [0, 1, 2]


def test_a_ranking_is_measured_once_a_run(bench, monkeypatch):
    first = ranked(bench, "before")
    monkeypatch.setattr(criticality, "measure", lambda _: pytest.fail("measured again"))
    assert ranked(bench, "before") == first
    stored = json.loads((bench.folder / "criticality.json").read_text())
    assert list(stored) == ["before"]
    assert list(stored["before"][0]) == ["layer", "gradient", "scaled"]


def test_a_broken_file_is_one_line(bench):
    (bench.folder / "criticality.json").write_text('{"before": [{"layer": "x"}]}')
    with pytest.raises(RunFolderError, match="does not hold a ranking"):
        ranked(bench, "before")


def test_a_gradient_that_is_not_finite_stops(bench):
    with torch.no_grad():
        bench.network.body.fc.weight[0, 0] = float("nan")
    with pytest.raises(TrainingError, match="not finite"):
        measure(bench)
