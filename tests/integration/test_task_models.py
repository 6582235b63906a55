"""The networks of other tasks, made small: their judges are guessed, and they have learnt something."""

import numpy as np
import onnxruntime as ort
import pytest
from make_task_models import main
from tasks.grammar import LENGTH, TAGS, VOCABULARY, make_sentences
from tasks.scenes import SIZE, make_scenes
from tasks.training import TASKS

from resq_deploy.data import load_dataset
from resq_deploy.faults.judges.guess import Value, guess
from resq_deploy.faults.judges.quality import FIGURES

SIZES = {"detector": (800, 10), "segmenter": (250, 6), "tagger": (400, 4)}  # training samples, epochs
LEAST = {"detector": ("map50", 0.3), "segmenter": ("miou", 0.1), "tagger": ("token_accuracy", 0.85)}


def made(name, work):
    training, epochs = SIZES[name]
    sizes = ["--training", training, "--test", 60, "--epochs", epochs]
    assert main([name, "--work", str(work), *map(str, sizes)]) == 0
    return work / f"{name}.float.onnx", np.load(work / f"{name}.npz")


def judged(path, data):
    """Return the judge that is guessed for a file, and its figure on the labelled data."""
    session = ort.InferenceSession(path)
    (given,), (output,) = session.get_inputs(), session.get_outputs()
    outputs = {output.name: session.run(None, {given.name: data[given.name]})[0]}
    values = [Value(name=output.name, values=outputs[output.name])]
    inputs = [Value(name=given.name, shape=data[given.name].shape[1:], type=data[given.name].dtype.name)]
    without = guess(values, inputs).judge.settled(outputs)
    judge = guess(values, inputs, data["labels"]).judge.settled(outputs)
    assert judge == without
    return judge, FIGURES[judge.figure](judge.on(outputs, data["labels"]).golden.contributions)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_network_is_made_judged_and_has_learnt_something(name, tmp_path):
    path, data = made(name, tmp_path)
    judge, figure = judged(path, data)
    assert judge.name == TASKS[name].judge
    assert judge.figure == LEAST[name][0]
    assert figure > LEAST[name][1]
    if name == "tagger":
        quantized, near = judged(tmp_path / "tagger.int8.onnx", data)
        assert quantized == judge
        assert near == pytest.approx(figure, abs=0.02)


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
