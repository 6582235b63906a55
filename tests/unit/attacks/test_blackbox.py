import subprocess
import sys
import textwrap

import numpy as np
import onnx
import pytest

from resq_deploy.attacks.blackbox import BlackBoxResult, square
from resq_deploy.data import load_dataset
from resq_deploy.deployed.session import Deployment, Session
from resq_deploy.errors import DataError, OptionError
from resq_deploy.faults.outcomes import top1

STEP = 1 / 255


class CountingSession(Session):
    """A session that counts the images it runs."""

    def __init__(self, model):
        super().__init__(model, Deployment())
        self.images = 0

    def run(self, images, terminate=None):
        self.images += len(images)
        return super().run(images, terminate)


@pytest.fixture(scope="module")
def digits(digits_int8):
    """The int8 file under attack, with images and labels."""
    session = CountingSession(digits_int8.read_bytes())
    test = load_dataset("digits").evaluation(120)
    return session, session.input.prepare(test.images), test.labels


def attack(parts, epsilon=12 * STEP, queries=40, seed=0) -> BlackBoxResult:
    session, images, labels = parts
    return square(session, images, labels, epsilon=epsilon, queries=queries, seed=seed)


def own_answers(session, images):
    """Labels that the model answers right by definition."""
    return top1(session.run(images))


def test_the_verdict_is_that_of_the_session_on_the_images_handed_back(digits):
    session, images, labels = digits
    result = attack(digits)
    np.testing.assert_array_equal(result.right, top1(session.run(images)) == labels)
    answers = top1(session.run(result.adversarial))
    np.testing.assert_array_equal(result.robust, result.right & (answers == labels))
    np.testing.assert_array_equal(result.fooled, result.right & (answers != labels))
    assert result.accuracy.value == result.robust.mean()
    assert result.accuracy.n == len(images)
    assert 0.1 < result.accuracy.value < result.right.mean() - 0.1


def test_images_stay_within_the_radius_and_are_pixels(digits):
    _, images, _ = digits
    result = attack(digits)
    assert result.adversarial.dtype == np.float32
    assert np.abs(result.adversarial - images).max() == pytest.approx(12 * STEP, abs=1e-6)
    assert result.adversarial.min() >= 0.0
    assert result.adversarial.max() <= 1.0


def test_images_answered_wrong_are_left_alone(digits):
    _, images, _ = digits
    result = attack(digits)
    assert (~result.right).any()
    np.testing.assert_array_equal(result.adversarial[~result.right], images[~result.right])


def test_a_larger_radius_and_a_larger_budget_fool_more(digits):
    weak = attack(digits, epsilon=2 * STEP)
    assert attack(digits).fooled.sum() > weak.fooled.sum()
    assert attack(digits, queries=200).fooled.sum() > attack(digits, queries=5).fooled.sum()


def test_same_seed_same_images(digits):
    first, again, other = attack(digits, seed=3), attack(digits, seed=3), attack(digits, seed=4)
    np.testing.assert_array_equal(first.adversarial, again.adversarial)
    assert first.queries == again.queries
    assert (first.adversarial != other.adversarial).any()


def test_numpys_global_random_state_is_left_as_it_was(digits):
    np.random.seed(5)  # noqa: NPY002 - the state that must not move
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    first = attack(digits)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002
    np.testing.assert_array_equal(attack(digits).adversarial, first.adversarial)


@pytest.mark.parametrize("queries", [3, 40])
def test_queries_are_what_the_session_ran_and_keep_to_the_budget(digits, queries):
    session, images, labels = digits
    before = session.images
    # One image at a time, so that the budget is seen to hold for each of them and not just on average.
    for place in range(12):
        begin = session.images
        one = slice(place, place + 1)
        result = square(session, images[one], labels[one], epsilon=STEP, queries=queries, seed=0)
        assert result.queries == session.images - begin - 1  # the last run is the verdict
        assert 1 <= result.queries <= queries
    assert session.images - before > 12 * 3


def test_all_wrong_from_the_start_costs_one_query_each(digits):
    session, images, _ = digits
    result = square(session, images, (own_answers(session, images) + 1) % 10, epsilon=STEP, queries=40, seed=0)
    assert result.accuracy.value == 0.0
    assert not result.right.any()
    assert result.queries == pytest.approx(1.0, abs=0.05)  # images that occur twice are sent once
    np.testing.assert_array_equal(result.adversarial, images)


def test_radius_zero_changes_nothing(digits):
    _, images, _ = digits
    result = attack(digits, epsilon=0.0)
    np.testing.assert_array_equal(result.adversarial, images)
    np.testing.assert_array_equal(result.robust, result.right)


@pytest.mark.parametrize(("epsilon", "levels"), [(90 * STEP, 90), (1.9 * STEP, 1), (0.9 * STEP, 0)])
def test_uint8_inputs_are_attacked_on_their_grid(models, model_file, epsilon, levels):
    session = Session(model_file("nhwc_uint8").read_bytes(), Deployment())
    images = models.images(60, "nhwc_uint8")
    result = square(session, images, own_answers(session, images), epsilon=epsilon, queries=30, seed=0)
    assert result.adversarial.dtype == np.uint8
    assert np.abs(result.adversarial.astype(int) - images).max() == levels
    assert result.epsilon == levels / 255
    assert result.fooled.any() == (levels == 90)


def test_a_fixed_batch_gives_what_an_open_one_gives(models, model_file):
    fixed = model_file("fixed_batch").read_bytes()
    opened = onnx.load_from_string(fixed)
    opened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    images = models.images(31)
    labels = own_answers(Session(fixed, Deployment()), images)
    results = [
        square(Session(file, Deployment(batch=2)), images, labels, epsilon=0.5, queries=30, seed=0)
        for file in (fixed, opened.SerializeToString())
    ]
    assert results[0].fooled.any()
    np.testing.assert_array_equal(results[0].adversarial, results[1].adversarial)


@pytest.mark.parametrize("size", [(4, 12), (12, 4), (2, 2)], ids=str)
def test_flat_and_tiny_images(models, size):
    proto = models.model(
        [*models.HEAD, models.node("Gemm", "flat w", "y", transB=1)],
        [models.stored("w", 2, 3)],
        size=("N", 3, *size),
    )
    session = Session(proto.SerializeToString(), Deployment())
    images = np.random.default_rng(0).random((20, 3, *size), dtype=np.float32)
    result = square(session, images, own_answers(session, images), epsilon=0.3, queries=50, seed=0)
    assert result.fooled.any()


def test_scores_that_tie_do_not_hide_an_image(models):
    """Whole scores, as those of int8 files are: the margin is 0 before and after the change that fools the model."""
    nodes = [
        *models.HEAD,
        models.node("Gemm", "flat w b", "scores", transB=1),
        models.node("Floor", "scores", "y"),
    ]
    # Scores 0, 1, 1 at the image, so that class 1 wins; 1, 1, 1 where there is a little more light: class 0 wins.
    weights = np.array([[10, 0, 0], [0, 0, 0], [0, 0, 0]], np.float32)
    parameters = [models.constant("w", weights), models.constant("b", [-4.3, 1.0, 1.0])]
    session = Session(models.model(nodes, parameters).SerializeToString(), Deployment())
    images = np.full((4, 3, 8, 8), 0.52, np.float32)
    result = square(session, images, np.ones(4, np.int64), epsilon=0.1, queries=60, seed=0)
    assert result.right.all()
    assert result.fooled.all()


def test_outputs_that_are_not_finite_are_wrong_answers(models):
    """With less light the right class's score is no number, and nothing that is one ever exceeds it."""
    nodes = [
        *models.HEAD,
        models.node("Gemm", "flat w b", "scores", transB=1),
        models.node("Log", "scores", "y"),
    ]
    parameters = [
        models.constant("w", np.array([[0, 0, 0], [1, 0, 0]], np.float32)),
        models.constant("b", np.array([1e-9, -0.5], np.float32)),
    ]
    session = Session(models.model(nodes, parameters).SerializeToString(), Deployment())
    images = np.full((4, 3, 8, 8), 0.52, np.float32)
    result = square(session, images, np.ones(4, np.int64), epsilon=0.1, queries=60, seed=0)
    assert result.right.all()
    assert result.fooled.all()


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"epsilon": -0.1}, OptionError, "radius -0.1"),
        ({"epsilon": float("nan")}, OptionError, "radius nan"),
        ({"epsilon": 8.0}, OptionError, "radius 8.0"),
        ({"queries": 2}, OptionError, "2 queries"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_bad_options_are_refused(digits, given, error, words):
    with pytest.raises(error, match=words):
        attack(digits, **given)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((0, 3, 32, 32), np.float32), "one or more"),
        (np.zeros((2, 3072), np.float32), "shape"),
        (np.full((2, 3, 32, 32), 255.0, np.float32), r"\[0, 1\]"),
        (np.full((2, 3, 32, 32), np.nan, np.float32), r"\[0, 1\]"),
    ],
    ids=["none", "flat", "not scaled", "nan"],
)
def test_what_are_no_images_is_refused(digits, images, words):
    with pytest.raises(DataError, match=words):
        square(digits[0], images, np.zeros(len(images), np.int64), epsilon=STEP, queries=10, seed=0)


def test_images_one_pixel_high_are_refused(models):
    proto = models.model(
        [*models.HEAD, models.node("Gemm", "flat w", "y", transB=1)], [models.stored("w", 5, 3)], size=("N", 3, 1, 9)
    )
    session = Session(proto.SerializeToString(), Deployment())
    images = np.random.default_rng(0).random((3, 3, 1, 9), dtype=np.float32)
    with pytest.raises(DataError, match="1x9"):
        square(session, images, own_answers(session, images), epsilon=STEP, queries=10, seed=0)


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
from resq_deploy.attacks.blackbox import square
from resq_deploy.data import load_dataset
from resq_deploy.deployed.session import Deployment, Session
session = Session(open(sys.argv[1], "rb").read(), Deployment())
test = load_dataset("digits").evaluation(20)
print(square(session, session.input.prepare(test.images), test.labels, epsilon=0.02, queries=5, seed=0).accuracy.n)
"""


def test_the_attack_runs_without_torch(digits_int8):
    done = in_a_process_of_its_own(("torch", "torchvision"), ATTACK, digits_int8)
    assert done.stdout == "20\n", done.stderr
    assert done.stderr == ""


def test_without_the_toolbox_the_extra_is_named(digits_int8):
    done = in_a_process_of_its_own(("art",), ATTACK, digits_int8)
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "MissingExtraError: the Square attack needs the extra 'attacks': pip install 'resq-deploy[attacks]'"
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
