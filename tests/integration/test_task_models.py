"""The networks of other tasks, made small: each from float through export and campaign to the page."""

import json

import numpy as np
import pytest
from make_task_models import main
from tasks.grammar import LENGTH, TAGS, VOCABULARY, make_sentences
from tasks.scenes import SIZE, make_scenes
from tasks.training import TASKS

from resq_deploy.data import load_dataset
from resq_deploy.data.dataset import EVALUATION_SEED
from resq_deploy.data.splits import permutation
from resq_deploy.deployed.deployment import Deployment, create
from resq_deploy.faults.judges import words
from resq_deploy.faults.judges.guess import Value, guess
from resq_deploy.faults.judges.quality import FIGURES

SIZES = {"detector": (800, 10), "segmenter": (250, 6), "tagger": (400, 4)}  # training samples, epochs
LEAST = {"detector": ("map50", 0.3), "segmenter": ("miou", 0.1), "tagger": ("token_accuracy", 0.85)}


def made(name, work):
    training, epochs = SIZES[name]
    sizes = ["--training", training, "--test", 60, "--epochs", epochs]
    assert main([name, "--work", str(work), *map(str, sizes)]) == 0
    stored = np.load(work / f"{name}.npz")
    order = permutation(len(stored["labels"]), EVALUATION_SEED)  # which decides between equal scores, as in COCO's mAP
    given = TASKS[name].input
    return work / f"{name}.float.onnx", {array: stored[array][order] for array in (given, "labels")}


def judged(path, data):
    """Return the judge that is guessed for a file, and its figure on the labelled data."""
    session = create(path.read_bytes(), Deployment())
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    outputs = {output.name: session.run(None, {given.name: data[given.name]})[0]}
    values = [Value(name=output.name, values=outputs[output.name])]
    inputs = [Value(name=given.name, shape=data[given.name].shape[1:], type=data[given.name].dtype.name)]
    without = guess(values, inputs).judge.settled(outputs)
    judge = guess(values, inputs, data["labels"]).judge.settled(outputs)
    assert judge == without
    return judge, FIGURES[judge.figure](judge.on(outputs, data["labels"]).golden.contributions)


def campaign(resq, file, data, run, *options):
    """Run some faults, and return the summary and what each fault did."""
    sizes = ("--samples", 25, "--images", 60, "--workers", 1)
    status, _, told = resq("faultcamp", file, "--dataset", data, *sizes, "--out", run, *options)
    assert status == 0, told
    return json.loads((run / "summary.json").read_text()), (run / "faults.csv").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_network_goes_from_float_to_the_page(name, tmp_path, resq):
    """One test a task, since making a network takes longer than all that is tried on it."""
    path, data = made(name, tmp_path)
    judge, figure = judged(path, data)
    assert judge.name == TASKS[name].judge
    assert judge.figure == LEAST[name][0]
    assert figure > LEAST[name][1]

    spec, int8 = tmp_path / f"{name}.npz", tmp_path / "int8.onnx"
    form = ("--format", "dynamic") if name == "tagger" else ("--guard", "parameters")
    status, said, told = resq("export-int8", path, "--out", int8, "--dataset", spec, "--gate", "clean=10", *form)
    assert status == 0, told
    assert f"judge {judge.name}: " in said
    quality = json.loads(int8.with_suffix(".json").read_text())["task"]["quality"]
    same, deployed = judged(int8, data)
    assert same.name == judge.name
    assert quality["float"] == pytest.approx(figure, abs=1e-9)
    assert quality["int8"] == pytest.approx(deployed, abs=1e-9)
    assert deployed == pytest.approx(figure, abs=0.1)

    files = [int8, tmp_path / "tagger.int8.onnx"] if name == "tagger" else [int8]
    for place, file in enumerate(files):
        runs = [tmp_path / f"{engine}{place}" for engine in ("replay", "reload")]
        found = [campaign(resq, file, spec, run, "--engine", run.name[:-1]) for run in runs]
        summary, faults = found[0]
        assert faults == found[1][1], "engines differ"
        assert summary["judge"]["name"] == judge.name
        assert summary["golden"]["quality"]["name"] == judge.figure
        assert summary["golden"]["quality"]["value"] == pytest.approx(judged(file, data)[1], abs=1e-9)
        assert summary["audit"]["mismatches"] == 0
        status, _, told = resq("report", runs[0], "--out", tmp_path / "page.html")
        assert status == 0, told
        page = (tmp_path / "page.html").read_text()
        assert words.FIGURES[judge.figure] in page
        assert "same top-1" not in page


class TestScenes:
    def scenes(self, seed=0):
        return make_scenes(load_dataset("digits").test, 40, seed)

    def test_boxes_hold_their_digit_and_nothing_else(self):
        scenes = self.scenes()
        assert scenes.images.shape == (40, 1, SIZE, SIZE)
        assert 0.0 <= scenes.images.min() <= scenes.images.max() <= 1.0
        assert (scenes.boxes[:, 0, 0] >= 0).all()
        for boxes, classes in zip(scenes.boxes, scenes.classes, strict=True):
            around = np.zeros((SIZE, SIZE), bool)
            for digit, *corners in boxes[boxes[:, 0] >= 0]:
                left, top, right, bottom = map(int, corners)
                assert not around[top:bottom, left:right].any(), "digits overlap"
                around[top:bottom, left:right] = True
                assert set(np.unique(classes[top:bottom, left:right])) == {0, int(digit) + 1}
            assert not classes[~around].any()

    def test_the_same_seed_gives_the_same_and_another_others(self):
        assert self.scenes().images.tobytes() == self.scenes().images.tobytes() != self.scenes(1).images.tobytes()


class TestSentences:
    def test_each_word_has_a_tag_that_it_can_have(self):
        sentences = make_sentences(200, 0)
        assert sentences.tokens.shape == sentences.tags.shape == (200, LENGTH)
        assert ((sentences.tokens == 0) == (sentences.tags < 0)).all()
        stops = sentences.tokens == VOCABULARY.index(".")
        assert (stops.sum(axis=1) == 1).all()
        assert (sentences.tags[stops] == TAGS.index("stop")).all()

    def test_words_alone_do_not_tell_what_they_are(self):
        sentences = make_sentences(500, 0)
        tags = {word: set(sentences.tags[sentences.tokens == word].tolist()) for word in range(1, len(VOCABULARY))}
        assert sum(len(found) > 1 for found in tags.values()) > 8
        assert make_sentences(500, 0).tokens.tobytes() == sentences.tokens.tobytes()
