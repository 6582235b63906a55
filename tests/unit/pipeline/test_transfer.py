import numpy as np
import pytest
import torch

from resq_deploy.data import load_dataset, to_model_input
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.faults.outcomes import top1
from resq_deploy.pipeline.transfer import transfer_pgd


@pytest.fixture(scope="module")
def parts(digits_int8):
    """The int8 file, some images, and a linear torch network to take gradients from."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 10)).eval()
    return network, Session(digits_int8.read_bytes(), Deployment()), load_dataset("digits").evaluation(150)


def attacked(parts, epsilon, seed=0):
    network, session, test = parts
    return transfer_pgd(network, session, test, epsilon=epsilon, steps=5, seed=seed)


def test_without_perturbation_it_is_the_clean_accuracy(parts):
    network, session, test = parts
    result = attacked(parts, 0.0)
    inputs = to_model_input(test.images)
    assert result.int8_accuracy.value == (top1(session.run(inputs)) == test.labels).mean()
    with torch.no_grad():
        clean = (network(torch.from_numpy(inputs)).argmax(1).numpy() == test.labels).mean()
    assert result.float_accuracy.value == clean
    assert result.int8_accuracy.n == 150


def test_a_stronger_attack_hurts_the_network_it_was_made_for(parts):
    assert attacked(parts, 0.1).float_accuracy.value < attacked(parts, 0.01).float_accuracy.value


def test_same_seed_same_figures(parts):
    first, again = (attacked(parts, 0.05, seed=3) for _ in range(2))
    assert np.array_equal(first.float_right, again.float_right)
    assert np.array_equal(first.int8_right, again.int8_right)
