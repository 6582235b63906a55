import numpy as np
import onnx
import pytest

from resq_deploy.attacks.ball import Norm, distance
from resq_deploy.attacks.square import Square
from resq_deploy.attacks.target import Target
from resq_deploy.attacks.units import evaluate
from resq_deploy.data import load_dataset
from resq_deploy.deployed.deployment import Deployment
from resq_deploy.deployed.session import Session
from resq_deploy.errors import DataError, OptionError
from resq_deploy.faults.outcomes import top1

STEP = 1 / 255
NORMS = [(Norm.LINF, 12 * STEP), (Norm.L2, 2.0)]


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


def attack(session, images, labels, *, epsilon=12 * STEP, queries=40, seed=0, norm=Norm.LINF):
    target = Target(session)
    found = Square(target=target, norm=norm, queries=queries)
    return evaluate(target, found, target.prepared(images), labels, norm=norm, radius=epsilon, seed=seed)


def own_answers(session, images):
    """Labels that the model answers right by definition."""
    return top1(session.run(session.input.prepare(images)))


def as_input(levels):
    return np.ascontiguousarray(levels.transpose(0, 3, 1, 2)).astype(np.float32) / 255


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_the_verdict_is_that_of_the_session_on_the_images_handed_back(digits, norm, epsilon):
    session, images, labels = digits
    result = attack(*digits, norm=norm, epsilon=epsilon)
    np.testing.assert_array_equal(result.right, top1(session.run(images)) == labels)
    answers = top1(session.run(as_input(result.images)))
    np.testing.assert_array_equal(result.robust_8bit, result.right & (answers == labels))
    assert 0.1 < result.robust.mean() < result.right.mean() - 0.1


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_images_stay_within_the_radius_and_are_pixels(digits, norm, epsilon):
    _, images, _ = digits
    result = attack(*digits, norm=norm, epsilon=epsilon)
    assert result.valid.all()
    assert result.distance.max() <= epsilon + 1e-6
    assert result.distance[result.right].min() > 0.5 * epsilon  # the bound is made use of
    assert distance(norm, as_input(result.images), images).max() <= epsilon + 1e-6


def test_images_answered_wrong_are_left_alone(digits):
    _, images, _ = digits
    result = attack(*digits)
    assert (~result.right).any()
    np.testing.assert_allclose(as_input(result.images)[~result.right], images[~result.right], atol=1e-7)
    assert (result.queries[~result.right] == 1).all()


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_a_larger_radius_and_a_larger_budget_fool_more(digits, norm, epsilon):
    usual = attack(*digits, norm=norm, epsilon=epsilon)
    assert usual.robust.sum() < attack(*digits, norm=norm, epsilon=epsilon / 6).robust.sum()
    long, short = (attack(*digits, norm=norm, epsilon=epsilon, queries=queries) for queries in (200, 5))
    assert long.robust.sum() < short.robust.sum()


@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_same_seed_same_images(digits, norm, epsilon):
    first, again, other = (attack(*digits, norm=norm, epsilon=epsilon, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.queries, again.queries)
    assert (first.images != other.images).any()


def test_numpys_global_random_state_is_left_as_it_was(digits):
    np.random.seed(5)  # noqa: NPY002 - the state that must not move
    expected = np.random.random(3)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    attack(*digits)
    np.testing.assert_array_equal(np.random.random(3), expected)  # noqa: NPY002


@pytest.mark.parametrize("queries", [3, 40])
@pytest.mark.parametrize(("norm", "epsilon"), NORMS)
def test_queries_are_what_the_session_ran_and_keep_to_the_budget(digits, norm, epsilon, queries):
    session, images, labels = digits
    target = Target(session)
    right = target.is_right(images, labels)
    begin = session.images
    tried = Square(target=target, norm=norm, queries=queries)(images[right], labels[right], epsilon / 12, 0)
    assert tried.queries.sum() == session.images - begin
    assert tried.queries.min() >= 1
    assert tried.queries.max() == queries


def test_all_wrong_from_the_start_costs_one_query_each(digits):
    session, images, _ = digits
    result = attack(session, images, (own_answers(session, images) + 1) % 10)
    assert not result.right.any()
    assert not result.robust.any()


def test_radius_zero_changes_nothing(digits):
    _, images, _ = digits
    result = attack(*digits, epsilon=0.0)
    np.testing.assert_allclose(as_input(result.images), images, atol=1e-7)
    np.testing.assert_array_equal(result.robust, result.right)


@pytest.mark.parametrize(("epsilon", "levels"), [(90 * STEP, 90), (1.9 * STEP, 1), (0.9 * STEP, 0)])
def test_uint8_inputs_are_attacked_on_their_grid(models, model_file, epsilon, levels):
    session = Session(model_file("nhwc_uint8").read_bytes(), Deployment())
    images = models.images(60, "nhwc_uint8")
    result = attack(session, images, own_answers(session, images), epsilon=epsilon, queries=30)
    assert np.abs(result.images.astype(int) - images).max() == levels
    assert result.distance.max() == pytest.approx(levels / 255, abs=1e-6)
    np.testing.assert_array_equal(result.robust, result.robust_8bit)
    assert (~result.robust).any() == (levels == 90)


def test_a_fixed_batch_gives_what_an_open_one_gives(models, model_file):
    fixed = model_file("fixed_batch").read_bytes()
    opened = onnx.load_from_string(fixed)
    opened.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    images = models.images(31)
    labels = own_answers(Session(fixed, Deployment()), images)
    results = [
        attack(Session(file, Deployment(batch=2)), images, labels, epsilon=0.5, queries=30)
        for file in (fixed, opened.SerializeToString())
    ]
    assert not results[0].robust.all()
    np.testing.assert_array_equal(results[0].images, results[1].images)


def flat(models, height, width):
    """A model of images of that size, and some images."""
    proto = models.model(
        [models.node("Flatten", "x", "flat"), models.node("Gemm", "flat w", "y", transB=1)],
        [models.stored("w", 5, 3 * height * width)],
        size=("N", 3, height, width),
    )
    session = Session(proto.SerializeToString(), Deployment())
    return session, np.random.default_rng(0).random((20, 3, height, width), dtype=np.float32)


@pytest.mark.parametrize(
    ("norm", "size"),
    [(Norm.LINF, (4, 12)), (Norm.LINF, (12, 4)), (Norm.LINF, (2, 2)), (Norm.L2, (10, 10)), (Norm.L2, (11, 24))],
    ids=str,
)
def test_flat_and_tiny_images(models, norm, size):
    session, images = flat(models, *size)
    epsilon = 0.3 if norm is Norm.LINF else 3.0
    result = attack(session, images, own_answers(session, images), norm=norm, epsilon=epsilon, queries=50)
    assert not result.robust.all()
    assert result.distance.max() <= epsilon + 1e-6


@pytest.mark.parametrize(("norm", "size"), [(Norm.LINF, (1, 9)), (Norm.L2, (9, 32))], ids=str)
def test_images_without_room_for_a_square_are_refused(models, norm, size):
    session, images = flat(models, *size)
    with pytest.raises(DataError, match="x".join(map(str, size))):
        attack(session, images, own_answers(session, images), norm=norm)


def rounded_model(models, last, weights, bias):
    nodes = [*models.HEAD, models.node("Gemm", "flat w b", "scores", transB=1), models.node(last, "scores", "y")]
    parameters = [models.constant("w", np.array(weights, np.float32)), models.constant("b", np.array(bias, np.float32))]
    return Session(models.model(nodes, parameters).SerializeToString(), Deployment())


def test_scores_that_tie_do_not_hide_an_image(models):
    """Whole scores, as those of int8 files are: the margin is 0 before and after the change that fools the model."""
    # Scores 0, 1, 1 at the image, so that class 1 wins; 1, 1, 1 where there is a little more light: class 0 wins.
    session = rounded_model(models, "Floor", [[10, 0, 0], [0, 0, 0], [0, 0, 0]], [-4.3, 1.0, 1.0])
    result = attack(session, np.full((4, 3, 8, 8), 0.52, np.float32), np.ones(4, np.int64), epsilon=0.1, queries=60)
    assert result.right.all()
    assert not result.robust.any()


def test_outputs_that_are_not_finite_are_wrong_answers(models):
    """With less light the right class's score is no number, and nothing that is one ever exceeds it."""
    session = rounded_model(models, "Log", [[0, 0, 0], [1, 0, 0]], [1e-9, -0.5])
    result = attack(session, np.full((4, 3, 8, 8), 0.52, np.float32), np.ones(4, np.int64), epsilon=0.1, queries=60)
    assert result.right.all()
    assert not result.robust.any()


def test_a_budget_too_small_is_refused(digits):
    with pytest.raises(OptionError, match="2 queries"):
        attack(*digits, queries=2)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((0, 3, 32, 32), np.float32), "one or more"),
        (np.full((2, 3, 32, 32), 255.0, np.float32), r"\[0, 1\]"),
        (np.full((2, 3, 32, 32), np.nan, np.float32), r"\[0, 1\]"),
    ],
    ids=["none", "not scaled", "nan"],
)
def test_what_are_no_images_is_refused(digits, images, words):
    with pytest.raises(DataError, match=words):
        attack(digits[0], images, np.zeros(len(images), np.int64))


def test_it_is_as_strong_as_the_toolboxs(digits):
    """Under Linf, on the same session and budget; the toolbox's L2 attack divides by a norm it should multiply by."""
    art = pytest.importorskip("art.attacks.evasion")
    estimators = pytest.importorskip("art.estimators.classification")
    session, images, labels = digits
    classifier = estimators.BlackBoxClassifierNeuralNetwork(
        session.run, input_shape=(3, 32, 32), nb_classes=10, clip_values=(0.0, 1.0), preprocessing=None
    )
    found = art.SquareAttack(classifier, eps=12 * STEP, max_iter=98, batch_size=120, verbose=False)
    state = np.random.get_state()  # noqa: NPY002 - the state the toolbox draws from
    np.random.seed(0)  # noqa: NPY002 - as above
    theirs = top1(session.run(found.generate(images.copy(), labels))) == labels
    np.random.set_state(state)  # noqa: NPY002 - as above
    assert attack(*digits, queries=100).robust.mean() <= theirs.mean() + 0.02
