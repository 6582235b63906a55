"""Samples of any kind: options that say values, archives with one array an input, digests."""

import numpy as np
import pytest

from resq_deploy.data.samples import Samples, parse_feeds, parse_sizes, parse_states
from resq_deploy.data.sources import load_dataset, load_samples
from resq_deploy.errors import DataError, OptionError


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("rate=16000", np.array(16000)),
        ("size=640,640", np.array([640, 640])),
        ("sizes=[[640, 480]]", np.array([[640, 480]])),
        ("share=0.5", np.array(0.5)),
        ("training=false", np.array(False)),
    ],
)
def test_values_are_read_as_numbers_and_lists(text, wanted):
    ((_, value),) = parse_feeds([text]).items()
    assert value.dtype.kind == wanted.dtype.kind
    assert np.array_equal(value, wanted)


def test_values_are_read_from_a_file(tmp_path):
    np.save(tmp_path / "mask.npy", np.ones((2, 3), np.int64))
    assert parse_feeds([f"mask={tmp_path / 'mask.npy'}"])["mask"].shape == (2, 3)
    with pytest.raises(DataError, match="cannot read"):
        parse_feeds([f"mask={tmp_path / 'none.npy'}"])


@pytest.mark.parametrize("text", ["rate", "=3", "a=", "a=x", "a={}", "a=[1, [2]]", "a=NaN"])
def test_what_is_no_value_is_refused(text):
    with pytest.raises(OptionError, match="--feed"):
        parse_feeds([text])


def test_states_are_pairs_of_output_and_input():
    assert parse_states(["h_out=h", "c_out=c"]) == {"h": "h_out", "c": "c_out"}
    with pytest.raises(OptionError, match="give OUT=IN"):
        parse_states(["h"])
    with pytest.raises(OptionError, match="takes 'a' already"):
        parse_states(["a=h", "b=h"])


def test_sizes_are_whole_numbers_above_zero():
    assert parse_sizes(["H=640", "image.2=8"]) == {"H": 640, "image.2": 8}
    for text in ("H", "H=0", "H=x", "=3", "H=-1"):
        with pytest.raises(OptionError, match="give AXIS=N"):
            parse_sizes([text])


def archive(folder, **arrays):
    path = folder / "own.npz"
    np.savez(path, **arrays)
    return str(path)


TOKENS = np.arange(12, dtype=np.int64).reshape(4, 3)


def test_an_archive_with_an_array_an_input(tmp_path):
    spec = archive(tmp_path, tokens=TOKENS, mask=np.ones_like(TOKENS), labels=TOKENS % 2)
    found = load_samples(spec, None, ["tokens", "mask"])
    assert isinstance(found, Samples)
    assert (found.name, len(found), found.labels.shape) == ("own", 4, (4, 3))
    assert set(found.arrays) == {"tokens", "mask"}
    part = found.evaluation(2)
    order = part.arrays["tokens"][:, 0] // 3
    assert np.array_equal(part.labels, TOKENS[order] % 2)
    assert np.array_equal(part.arrays["tokens"], found.evaluation().arrays["tokens"][:2])
    assert found.digest != load_samples(archive(tmp_path, tokens=TOKENS, mask=TOKENS), None, ["tokens"]).digest


def test_an_archive_of_images_and_labels_stays_a_data_set(tmp_path):
    images = np.zeros((10, 4, 4, 3), np.uint8)
    spec = archive(tmp_path, images=images, labels=np.arange(10) % 2)
    assert load_samples(spec, None, ["x"]).digest("test") == load_dataset(spec).digest("test")
    unlabelled = load_samples(archive(tmp_path, images=images), None, ["x"])
    assert (unlabelled.images.shape, unlabelled.labels) == ((10, 4, 4, 3), None)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"tokens": np.int64(3)}, "its first axis must be that of the samples"),
        ({"other": TOKENS}, "holds no array for an input of the model: name one 'tokens', samples first"),
        ({"tokens": TOKENS, "labels": np.zeros(3)}, "'tokens' holds 4 samples and 'labels' 3"),
        ({"tokens": np.full((4, 2), np.nan)}, "holds NaN"),
        ({"tokens": TOKENS.astype(complex)}, "must hold numbers, truth values or strings"),
    ],
)
def test_broken_arrays_are_refused(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        load_samples(archive(tmp_path, **arrays), None, ["tokens"])


def test_whatever_is_fed_is_in_the_digest():
    digits = Samples.of(load_dataset("digits"))
    assert digits.digest == load_dataset("digits").digest("test")
    fed = Samples(name="x", images=digits.images, source=digits.source, once={"n": np.array(1)})
    assert len({digits.digest, fed.digest, Samples(name="x", source=digits.source, states={"h": "o"}).digest}) == 3
