import numpy as np
import pytest

from resq_deploy.errors import DataError, FailedError, OptionError
from resq_deploy.faults.judges.outputs import ragged
from resq_deploy.faults.judges.quality import FIGURES
from resq_deploy.faults.judges.registry import parse
from resq_deploy.faults.outcomes import Outcome

CAT, DOG = (0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.8, 1)


def rows(*images, room=4):
    """An output of rows x1, y1, x2, y2, score, class, [N, room, 6]."""
    output = np.zeros((len(images), room, 6), dtype=np.float32)
    for image, found in zip(output, images, strict=True):
        image[: len(found)] = np.reshape(found, (-1, 6))
    return {"y": output}


def bench(golden, labels=None, text="boxes:decode=decoded"):
    return parse(text, list(golden)).settled(golden).on(golden, labels)


def test_each_image_by_hand():
    golden = rows([CAT, DOG], [CAT], [CAT], [CAT], [], [CAT], [CAT])
    faulty = rows(
        [DOG],  # lost
        [(0, 0, 10, 4, 0.9, 0)],  # moved
        [(0, 0, 10, 10, 0.9, 3)],  # another class
        [CAT, DOG, (60, 60, 70, 70, 0.3, 0)],  # two ghosts
        [(60, 60, 70, 70, 0.2, 0)],  # a ghost below the score
        [(0, 0, 10, 10, 0.26, 0)],  # less certain
        [CAT],
    )
    found = bench(golden)(faulty)
    assert found.flags["masked"].tolist() == [False] * 6 + [True]
    assert found.flags["benign"].tolist() == [False] * 4 + [True, True, False]
    assert found.flags["sdc1"].tolist() == [True] * 4 + [False] * 3
    assert found.amounts["lost"].tolist() == [1, 0, 0, 0, 0, 0, 0]
    assert found.amounts["moved"].tolist() == [0, 1, 0, 0, 0, 0, 0]
    assert found.amounts["relabelled"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    assert found.amounts["ghost"].tolist() == [0, 0, 0, 2, 0, 0, 0]
    assert found.flags["ghost"].tolist() == [False, False, False, True, False, False, False]
    assert found.totals == {"lost": 1, "moved": 1, "relabelled": 1, "ghost": 2}
    assert found.outcome is Outcome.SDC1


def test_a_score_at_the_threshold_is_no_detection():
    at = (0, 0, 10, 10, 0.25, 0)
    assert bench(rows([CAT]))(rows([at])).amounts["lost"].tolist() == [1]
    assert bench(rows([CAT]), text="boxes:decode=decoded,score=0.24")(rows([at])).flags["benign"].all()


def test_an_output_that_is_not_finite_finds_nothing():
    faulty = rows([CAT, DOG], [CAT])
    faulty["y"][0, 3, 0] = np.nan
    labels = np.array([[[0, 0, 0, 10, 10], [1, 20, 20, 30, 30]], [[0, 0, 0, 10, 10], [-1, 0, 0, 0, 0]]])
    judge = bench(rows([CAT, DOG], [CAT]), labels)
    found = judge(faulty)
    assert found.flags["nonfinite"].tolist() == found.flags["sdc1"].tolist() == [True, False]
    assert found.amounts["lost"].tolist() == [2, 0]
    assert FIGURES["map50"](judge.golden.contributions) == 1
    assert FIGURES["map50"](found.contributions) == pytest.approx((51 / 101 + 0) / 2)


def test_an_image_without_a_detection_has_no_answer_either_where_outputs_are_not_finite():
    faulty = rows([])
    faulty["y"][0, 3, 0] = np.inf
    found = bench(rows([]))(faulty)
    assert found.flags["sdc1"].tolist() == found.flags["nonfinite"].tolist() == [True]
    assert set(found.totals.values()) == {0}


def test_empty_images_without_any_detection():
    judge = bench(rows([], []), np.full((2, 1, 5), -1))
    assert judge(rows([], [DOG])).flags["sdc1"].tolist() == [False, True]
    assert FIGURES["map50"](judge.golden.contributions) is None


def test_labels_a_table_a_sample():
    labels = ragged([np.array([[0, 0, 0, 10, 10.0]]), np.empty((0, 5))])
    judge = bench(rows([CAT], [DOG]), labels)
    assert FIGURES["map50"](judge.golden.contributions) == 1  # a class without labels does not count


def test_low_scores_count_for_map_alone():
    labels = np.array([[[0, 0, 0, 10, 10], [0, 20, 20, 30, 30]]])
    low = (20, 20, 30, 30, 0.01, 0)
    judge = bench(rows([CAT, low]), labels)
    assert FIGURES["map50"](judge.golden.contributions) == 1
    found = judge(rows([CAT]))
    assert found.flags["benign"].all()
    assert FIGURES["map50"](found.contributions) == pytest.approx(51 / 101)


@pytest.mark.parametrize("labels", [np.zeros((1, 2)), np.zeros((1, 3, 4)), np.zeros(1)], ids=lambda one: str(one.shape))
def test_labels_of_another_kind_are_refused(labels):
    with pytest.raises(DataError, match="labels \\[N, L, 5\\] of class, x1, y1, x2, y2"):
        bench(rows([CAT]), labels)


def test_an_unknown_decoder_is_refused():
    told = "no decoder 'yolo': give --judge boxes:decode=NAME, one of yolov5, yolov8, ssd, detr, decoded, or"
    with pytest.raises(OptionError, match=told):
        parse("boxes:decode=yolo", ["y"])


def test_a_decoder_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_decoder.py").write_text(
        "def half(outputs):\n"
        "    return [(one[:, :4] / 2, one[:, 4], one[:, 5]) for one in outputs['y']]\n"
        "def one_too_few(outputs):\n"
        "    return half(outputs)[1:]\n"
        "def broken(outputs):\n"
        "    return outputs['z']\n"
    )
    monkeypatch.chdir(tmp_path)
    golden = rows([CAT], [DOG])
    judge = bench(golden, np.array([[[0, 0, 0, 5, 5]], [[1, 10, 10, 15, 15]]]), "boxes:decode=own_decoder:half")
    assert FIGURES["map50"](judge.golden.contributions) == 1
    assert judge(rows([CAT], [])).amounts["lost"].tolist() == [0, 1]
    with pytest.raises(FailedError, match="returned 1 for 2 samples"):
        bench(golden, None, "boxes:decode=own_decoder:one_too_few")
    with pytest.raises(FailedError, match="own_decoder:broken failed: KeyError: 'z'"):
        bench(golden, None, "boxes:decode=own_decoder:broken")
    with pytest.raises(OptionError, match=r"has no function 'absent': see judge boxes: decode own_decoder:absent"):
        parse("boxes:decode=own_decoder:absent", ["y"])
