"""binary, labels, map, embedding, values: each rule by hand."""

import numpy as np
import pytest

from resq_deploy.errors import DataError, ModelError
from resq_deploy.faults.judges.outputs import ragged
from resq_deploy.faults.judges.quality import FIGURES
from resq_deploy.faults.judges.registry import parse


def judged(text, golden, faulty, labels=None):
    """Judge by a judge asked for by text, settled on these very outputs."""
    if not isinstance(golden, dict):
        golden, faulty = {"y": golden}, {"y": faulty}
    judge = parse(text, list(golden)).settled(golden)
    bench = judge.on(golden, labels)
    return bench(faulty), bench, judge


def floats(*values):
    return np.array(values, dtype=np.float32)


class TestBinary:
    def test_a_sigmoid_is_asked_at_one_half(self):
        golden, faulty = floats([0.9], [0.9], [0.2], [0.2], [0.2]), floats([0.9], [0.6], [0.5], [0.51], [np.nan])
        found, _, judge = judged("binary", golden, faulty, np.array([1, 1, 0, 1, 0]))
        assert judge.threshold == 0.5
        assert found.flags["masked"].tolist() == [True, False, False, False, False]
        assert found.flags["benign"].tolist() == [False, True, True, False, False]
        assert found.flags["sdc1"].tolist() == [False, False, False, True, True]
        assert found.flags["nonfinite"].tolist() == [False, False, False, False, True]
        assert found.flags["corrected"].tolist() == [False, False, False, True, False]
        assert found.flags["corrupted"].tolist() == [False, False, False, False, True]
        assert found.right.tolist() == [True, True, True, True, False]

    def test_a_logit_is_asked_at_zero(self):
        found, _, judge = judged("binary", floats(3, -2), floats(0.4, 0.4))
        assert judge.threshold == 0
        assert found.flags["sdc1"].tolist() == [False, True]

    def test_a_threshold_of_the_users_own(self):
        found, _, _ = judged("binary:threshold=0.8", floats(0.9, 0.7), floats(0.7, 0.6))
        assert found.flags["sdc1"].tolist() == [True, False]

    def test_quantized_sigmoids_are_asked_at_the_middle(self):
        for golden, faulty in (
            (np.array([[200], [10]], np.uint8), np.array([[128], [129]], np.uint8)),
            (np.array([[72], [-118]], np.int8), np.array([[0], [1]], np.int8)),
        ):
            assert judged("binary", golden, faulty)[0].flags["sdc1"].tolist() == [True, True]

    def test_of_several_any_counts(self):
        golden, faulty = floats([0.9, 0.1, 0.8], [0.9, 0.1, 0.8]), floats([0.9, 0.1, 0.3], [0.8, 0.2, 0.7])
        found, bench, _ = judged("binary", golden, faulty, np.array([[1, 0, 1], [1, 1, 1]]))
        assert found.flags["sdc1"].tolist() == [True, False]
        assert bench.golden.right.tolist() == [True, False]

    def test_labels_must_be_yes_or_no(self):
        with pytest.raises(DataError, match=r"labels 0 or 1.*values up to 2"):
            judged("binary", floats([0.9], [0.1]), floats([0.9], [0.1]), np.array([2, 0]))


class TestLabels:
    def test_any_other_class_is_sdc(self):
        found, bench, _ = judged("labels", np.array([3, 3, 100]), np.array([3, 4, 101]), np.array([3, 4, 1]))
        assert found.flags["masked"].tolist() == [True, False, False]
        assert found.flags["sdc1"].tolist() == [False, True, True]
        assert found.flags["corrected"].tolist() == [False, True, False]
        assert bench.golden.right.tolist() == [True, False, False]

    def test_text(self):
        golden = np.array(["cat", "dog"], dtype=object)
        found, _, _ = judged("labels", golden, np.array(["cat", "eel"], dtype=object), np.array(["cat", "dog"]))
        assert found.flags["masked"].tolist() == [True, False]
        assert found.flags["corrupted"].tolist() == [False, True]

    def test_labels_of_another_kind_are_refused(self):
        with pytest.raises(DataError, match="as labels; these are int64"):
            judged("labels", np.array(["a"], dtype=object), np.array(["a"], dtype=object), np.array([0]))


class TestMap:
    GOLDEN = np.zeros((2, 3, 10, 20), dtype=np.float32)  # 200 positions, class 1 everywhere
    GOLDEN[:, 1] = 1

    @pytest.mark.parametrize(("changed", "sdc1"), [(1, False), (2, False), (3, True)])
    def test_beyond_one_per_cent_of_the_positions_is_sdc(self, changed, sdc1):
        faulty = self.GOLDEN.copy()
        faulty[1, 2, 0, :changed] = 5
        found, _, _ = judged("map", self.GOLDEN, faulty)
        assert found.flags["sdc1"].tolist() == [False, sdc1]
        assert found.flags["masked"].tolist() == [True, False]
        assert found.totals == {"changed": changed}

    def test_the_same_class_with_other_scores_is_benign(self):
        found, _, _ = judged("map:share=0", self.GOLDEN, self.GOLDEN * 2)
        assert found.flags["benign"].all()

    def test_ties_go_to_the_lowest_class(self):
        faulty = self.GOLDEN.copy()
        faulty[0, 2] = 1
        faulty[1, 0] = 1
        found, _, _ = judged("map", self.GOLDEN, faulty)
        assert found.flags["sdc1"].tolist() == [False, True]

    def test_a_nan_anywhere_is_no_answer(self):
        faulty = self.GOLDEN.copy()
        faulty[0, 0, 0, 0] = np.nan
        labels = np.ones((2, 10, 20), dtype=int)
        found, bench, _ = judged("map", self.GOLDEN, faulty, labels)
        assert found.flags["nonfinite"].tolist() == found.flags["sdc1"].tolist() == [True, False]
        assert found.totals == {"changed": 200}
        assert FIGURES["miou"](bench.golden.contributions) == 1
        assert FIGURES["miou"](found.contributions) == 0.5

    @pytest.mark.parametrize("axis", [1, -1])
    def test_tokens_are_rated_by_their_share(self, axis):
        scores = np.eye(4, dtype=np.float32)[[[0, 1, 2, 3, 3], [1, 1, 1, 0, 0]]]  # [2, 5, 4]
        labels = np.array([[0, 1, 2, 0, -100], [1, 1, 255, -100, -100]])
        faulty = scores.copy()
        faulty[0, 0] = [0, 0, 0, 9]
        turned = [np.moveaxis(one, -1, axis) for one in (scores, faulty)]
        found, bench, judge = judged(f"map:axis={axis}", *turned, labels)
        assert judge.figure == "token_accuracy"
        assert FIGURES["token_accuracy"](bench.golden.contributions) == 5 / 6
        assert FIGURES["token_accuracy"](found.contributions) == 4 / 6
        assert found.flags["sdc1"].tolist() == [True, False]

    def test_an_output_may_hold_the_classes_themselves(self):
        golden = np.tile(np.arange(20), (3, 10, 1))
        faulty = golden.copy()
        faulty[1, 0, :2] = 7
        faulty[2, 0, :3] = 7
        found, bench, _ = judged("map:axis=0", golden, faulty, golden)
        assert found.flags["sdc1"].tolist() == [False, False, True]
        assert FIGURES["miou"](bench.golden.contributions) == 1

    def test_a_single_score_is_yes_or_no(self):
        golden = np.full((2, 1, 10, 10), 0.9, dtype=np.float32)
        faulty = golden.copy()
        faulty[0, 0, 0, :2] = 0.2
        faulty[1] = 0.6
        found, _, judge = judged("map", golden, faulty)
        assert (judge.threshold, judge.figure) == (0.5, "miou")
        assert found.flags["sdc1"].tolist() == [True, False]

    def test_an_axis_that_is_not_there_is_refused(self):
        with pytest.raises(ModelError, match=r"finds no axis 4.*map:axis=A"):
            judged("map:axis=4", self.GOLDEN, self.GOLDEN)

    def test_labels_of_another_size_are_refused(self):
        with pytest.raises(DataError, match="a class a position as labels, 200 a sample"):
            judged("map", self.GOLDEN, self.GOLDEN, np.zeros((2, 5, 10), dtype=int))


class TestEmbedding:
    def test_only_the_direction_counts(self):
        golden = floats([1, 0], [1, 0], [1, 0], [1, 0], [1, 0], [1, 0])
        faulty = floats([1, 0], [7, 0], [0.92, 0.39], [0.8, 0.6], [-1, 0], [0, 0])
        found, _, _ = judged("embedding", golden, faulty)
        assert found.flags["masked"].tolist() == [True, *[False] * 5]
        assert found.flags["sdc1"].tolist() == [False, False, False, True, True, True]  # cosines 1, 0.92, 0.8, -1, none

    def test_very_large_and_very_small_vectors(self):
        golden = np.array([[3e200, 4e200], [3e-200, 4e-200]])
        assert judged("embedding", golden, golden * 1.5)[0].flags["benign"].all()

    def test_vectors_rate_it_and_classes_do_not(self):
        golden, faulty = floats([1, 0], [1, 0]), floats([1, 0.01], [0, 1])
        found, bench, _ = judged("embedding", golden, faulty, floats([1, 0], [0, 1]))
        assert bench.golden.right.tolist() == [True, False]
        assert found.right.tolist() == [True, True]
        assert judged("embedding", golden, faulty, np.array([0, 1]))[0].contributions is None

    def test_a_number_is_no_vector(self):
        with pytest.raises(ModelError, match="a vector a sample"):
            judged("embedding", floats([1], [2]), floats([1], [2]))


class TestValues:
    def test_relative_error(self):
        golden = floats([3, 4], [3, 4], [3, 4], [0, 0], [0, 0], [1, 1])
        faulty = floats([3, 4], [3, 4.5], [3, 4.51], [0, -0.0], [0, 1e-9], [1, np.inf])
        found, _, _ = judged("values", golden, faulty)
        assert found.flags["masked"].tolist() == [True, *[False] * 5]
        assert found.flags["benign"].tolist() == [False, True, False, True, False, False]
        assert found.flags["sdc1"].tolist() == [False, False, True, False, True, True]

    def test_largest_error(self):
        golden, faulty = floats([10, 1, 1, 1]), floats([10, 1.9, 1.9, 1.9])
        assert judged("values", golden, faulty)[0].flags["sdc1"].all()  # 1.56 of 10.15
        assert judged("values:norm=max", golden, faulty)[0].flags["benign"].all()  # 0.9 of 10

    def test_all_outputs_count(self):
        golden = {"a": floats([100.0]), "b": floats([[1.0, 1.0]])}
        small = {"a": floats([100.0]), "b": floats([[1.0, 5.0]])}
        large = {"a": floats([100.0]), "b": floats([[1.0, 50.0]])}
        assert judged("values", golden, small)[0].flags["benign"].all()  # 4 of 100
        assert judged("values:each=yes", golden, small)[0].flags["sdc1"].all()  # 4 of 1.4
        assert judged("values", golden, large)[0].flags["sdc1"].all()

    def test_any_output_that_differs_is_not_masked(self):
        golden = {"a": floats([1.0], [1.0]), "b": np.array([[1], [2]])}
        found, _, _ = judged("values", golden, {"a": golden["a"], "b": np.array([[1], [3]])})
        assert found.flags["masked"].tolist() == [True, False]

    def test_a_size_of_its_own_for_every_sample(self):
        golden = ragged([floats(1, 2), floats(1), floats(2)])
        faulty = ragged([floats(1, 2.1), floats(1, 1), floats(2)])
        found, _, _ = judged("values", golden, faulty)
        assert found.flags["masked"].tolist() == [False, False, True]
        assert found.flags["sdc1"].tolist() == [False, True, False]

    def test_labels_of_its_size_rate_it(self):
        golden, faulty = floats([10.0], [10.0]), floats([8.0], [20.0])
        found, bench, judge = judged("values", golden, faulty, np.array([10.5, 20.0]))
        assert judge.figure == "within"
        assert bench.golden.right.tolist() == [True, False]
        assert found.right.tolist() == [False, True]
        assert found.counts["corrected"] == found.counts["corrupted"] == 1
        assert judged("values", floats([1, 2]), floats([1, 2]), np.array([3]))[0].contributions is None
        assert judged("values", floats([10]), floats([np.nan]), np.array([10]))[0].right.tolist() == [False]

    def test_text_is_refused(self):
        with pytest.raises(ModelError, match=r"'t' is text: leave it out with --outputs"):
            judged("values", {"t": np.array(["a"], dtype=object)}, {"t": np.array(["a"], dtype=object)})


def test_nan_payloads_are_compared_bit_by_bit():
    """A golden NaN sets a sample aside; elsewhere sign and payload of what is stored decide."""
    quiet, other = np.array([0x7FC00000, 0x7FC00001], dtype=np.uint32).view(np.float32)
    golden = floats([1, quiet], [1, 0])
    found, bench, _ = judged("values", golden, floats([1, other], [1, -0.0]))
    assert bench.usable.tolist() == [False, True]
    assert found.flags["masked"].tolist() == [False, False]
    assert found.flags["benign"].tolist() == [False, True]


def test_an_output_of_another_shape_is_no_verdict():
    _, bench, _ = judged("values", floats([1, 2]), floats([1, 2]))
    with pytest.raises(ValueError, match=r"output 'y' of shape \[1, 3\]"):
        bench({"y": floats([1, 2, 3])})


def test_outputs_that_are_missing_or_of_other_samples_are_refused():
    with pytest.raises(ModelError, match="has no output 'z'; it has 'y'"):
        parse("values", ["z"]).settled({"y": floats([1])})
    with pytest.raises(ModelError, match="the first axis of every output must be that of the samples"):
        parse("values", ["y", "z"]).settled({"y": floats([1]), "z": floats([1], [2])})
