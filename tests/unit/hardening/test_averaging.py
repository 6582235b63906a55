import pytest
import torch
from torch import nn

from resq_deploy.errors import CheckpointError
from resq_deploy.hardening.averaging import WeightAverage


def small():
    return nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))


def move(network, value):
    """Set all weights and statistics to a value, as a step of training would."""
    with torch.no_grad():
        for tensor in (*network.parameters(), network[1].running_mean, network[1].running_var):
            tensor.fill_(value)
    network[1].num_batches_tracked += 1


def averaged(average, network):
    with average.applied():
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def test_the_average_follows_its_formula_with_statistics_and_a_growing_decay():
    network = small()
    average = WeightAverage(network, 0.15)
    expected = None
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0)):
        move(network, value)
        average.update()
        decay = min(0.15, (1 + step) / (10 + step))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    found = averaged(average, network)
    for name in ("0.weight", "0.bias", "1.weight", "1.running_mean", "1.running_var"):
        assert found[name].item() == pytest.approx(expected)
    assert found["1.num_batches_tracked"] == 4


def test_the_weights_in_training_come_back_even_after_an_error():
    network = small()
    average = WeightAverage(network, 0.9)
    for value in (1.0, 2.0):
        move(network, value)
        average.update()
    weight = network[0].weight
    with average.applied():
        assert network[0].weight is weight, "the optimiser's parameters stay the same objects"
        assert weight.item() < 2
    assert (weight.item(), network[1].running_mean.item()) == (2, 2)
    with pytest.raises(RuntimeError, match="Expected"), average.applied():
        network(torch.zeros(3))
    assert weight.item() == 2


def test_a_state_goes_on_as_if_never_interrupted():
    network = small()
    first, second = WeightAverage(network, 0.9), WeightAverage(network, 0.9)
    for step in range(5):
        move(network, float(step))
        first.update()
        if step == 2:
            second.load_state(first.state())
        elif step > 2:
            second.update()
    found, expected = averaged(second, network), averaged(first, network)
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def test_a_state_of_another_network_is_refused():
    average = WeightAverage(small(), 0.9)
    with pytest.raises(CheckpointError, match=r"the average of the weights .* unknown to this network"):
        WeightAverage(small()[:1], 0.9).load_state(average.state())
