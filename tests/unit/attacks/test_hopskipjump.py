import subprocess
import sys
import textwrap

import numpy as np
import pytest

from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.hopskipjump import HopSkipJump
from resq_deploy.attacks.target import Target
from resq_deploy.attacks.units import evaluate
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session

NORMS = [(Norm.LINF, 24 / 255), (Norm.L2, 2.0)]


@pytest.fixture(scope="module")
def digits(digits_int8):
    session = Session(digits_int8.read_bytes(), Deployment())
    return Target(session), load_dataset("digits").evaluation(16)


def attack(parts, *, norm=Norm.LINF, epsilon=24 / 255, queries=150, seed=0):
    target, test = parts
    found = HopSkipJump(target=target, norm=norm, queries=queries)
    return evaluate(target, found, target.prepared(test.images), test.labels, norm=norm, radius=epsilon, seed=seed)


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_labels_alone_fool_images_within_the_radius(digits, norm, epsilon):
    result = attack(digits, norm=norm, epsilon=epsilon)
    assert (result.right & ~result.robust).sum() >= 1
    assert result.distance.max() <= epsilon + 2e-6
    assert result.valid.all()
    assert (result.distance[result.robust] == 0).all()  # what was not fooled comes back as it was


def test_the_budget_is_kept(digits):
    result = attack(digits, epsilon=1e-6, queries=40)
    np.testing.assert_array_equal(result.robust, result.right)
    assert result.queries.max() == 40
    assert (result.queries[~result.right] == 1).all()


def test_same_seed_same_images_whatever_the_global_state(digits):
    np.random.seed(5)  # noqa: NPY002 - the state that must not move
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first = attack(digits, seed=1)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002
    again, other = attack(digits, seed=1), attack(digits, seed=2)
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.queries, again.queries)
    assert (first.images != other.images).any()


def test_uint8_inputs(models, model_file):
    target = Target(Session(model_file("nhwc_uint8").read_bytes(), Deployment()))
    light = np.linspace(0, 1, 12)[:, None, None, None]
    images = (models.images(12, "nhwc_uint8") * light).astype(np.uint8)
    labels = target.scores(target.prepared(images)).argmax(axis=1)
    found = HopSkipJump(target=target, norm=Norm.LINF, queries=150)
    result = evaluate(target, found, target.prepared(images), labels, norm=Norm.LINF, radius=120 / 255, seed=0)
    assert not result.robust.all()
    assert np.abs(result.images.astype(int) - images).max() <= 120


NOT_INSTALLED = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else super().find_spec(name, path, target)

sys.meta_path[:] = [Finder if finder is PathFinder else finder for finder in sys.meta_path]
"""


def in_a_process_of_its_own(blocked, code, *arguments):
    """Run code where some packages are not found, as where they are not installed."""
    script = f"BLOCKED = {blocked!r}\n{NOT_INSTALLED}{textwrap.dedent(code)}"
    return subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)


ATTACK = """
from resq_deploy.attacks.ball import Norm
from resq_deploy.attacks.hopskipjump import HopSkipJump
from resq_deploy.attacks.target import Target
from resq_deploy.attacks.units import evaluate
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
target = Target(Session(open(sys.argv[1], "rb").read(), Deployment()))
test = load_dataset("digits").evaluation(4)
attack = HopSkipJump(target=target, norm=Norm.LINF, queries=20)
print(len(evaluate(target, attack, target.prepared(test.images), test.labels, norm=Norm.LINF, radius=0.1, seed=0)))
"""


def test_the_attack_runs_without_torch(digits_int8):
    done = in_a_process_of_its_own(("torch", "torchvision"), ATTACK, digits_int8)
    assert done.stdout == "4\n", done.stderr
    assert done.stderr == ""


def test_without_the_toolbox_the_extra_is_named(digits_int8):
    done = in_a_process_of_its_own(("art",), ATTACK, digits_int8)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "MissingExtraError: the attack hopskipjump needs the extra 'attacks': pip install 'resq-deploy[attacks]'"
    )


def test_the_room_alone_loads_neither_torch_nor_the_toolbox():
    code = """
    import importlib, pkgutil, resq_deploy.attacks
    for module in pkgutil.walk_packages(resq_deploy.attacks.__path__, "resq_deploy.attacks."):
        importlib.import_module(module.name)
    print(sorted({"torch", "art"} & sys.modules.keys()))
    """
    done = in_a_process_of_its_own((), code)
    assert done.stdout == "[]\n", done.stderr
