"""Data sets: shapes, splits that every trial shares, scaling, and errors that tell the remedy."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from archsearch.errors import UserError
from archsearch.evaluate.classification import Classification, ClassificationConfig
from archsearch.evaluate.data import Scaling, data_set, names, splits
from archsearch.evaluate.data.idx import read_idx
from archsearch.evaluate.data.splits import Split, scale, split
from archsearch.trial.context import TrialContext

GZIP = gzip.open


def idx(array: Any) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 + 30 images of 6×5 in 3 classes, the training pair gzipped."""
    random = np.random.default_rng(3)
    for prefix, count, suffix in (("train", 120, ".gz"), ("t10k", 30, "")):
        images, labels = random.integers(0, 256, (count, 6, 5)), np.arange(count) % 3
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            data = idx(array)
            (tmp_path / f"{prefix}-{name}-ubyte{suffix}").write_bytes(gzip.compress(data) if suffix else data)
    return tmp_path


def config(**options: Any) -> ClassificationConfig:
    return ClassificationConfig.model_validate(options)


def load(options: ClassificationConfig) -> Split:
    return Classification(options).split()


def test_digits_are_scikit_learns_own_and_need_no_import_of_it() -> None:
    loaded_before = "sklearn" in sys.modules
    arrays = data_set("digits").load()
    assert ("sklearn" in sys.modules) == loaded_before
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    assert np.array_equal(arrays.inputs.reshape(-1, 64), images)
    assert np.array_equal(arrays.labels, labels)
    assert data_set("digits").shape == arrays.inputs.shape[1:] == (1, 8, 8)


def test_recorded_constants_of_digits_are_those_of_the_data() -> None:
    digits = data_set("digits")
    arrays = digits.load()
    values = arrays.inputs / 16
    found = digits.scaling(arrays)
    assert found.mean[0] == pytest.approx(values.mean(), abs=1e-6)
    assert found.std[0] == pytest.approx(values.std(), abs=1e-6)


def test_scaling_goes_through_json_and_means_what_it_says() -> None:
    scaling = Scaling(255.0, (0.5, 0.25), (0.5, 2.0))
    assert Scaling.from_json(scaling.to_json()) == scaling
    raw = torch.tensor([[[[255]], [[51]]]], dtype=torch.uint8)
    assert scale(raw, scaling).flatten().tolist() == pytest.approx([1.0, (0.2 - 0.25) / 2])


def test_idx_folder_tells_shape_classes_and_its_own_scaling(folder: Path) -> None:
    source = data_set("idx", str(folder))
    arrays = source.load()
    assert (source.shape, source.classes) == ((1, 6, 5), 3)
    assert arrays.inputs.shape == (120, 1, 6, 5)
    assert arrays.test_inputs is not None
    assert arrays.test_inputs.shape == (30, 1, 6, 5)
    scaling = source.scaling(arrays)
    assert scaling.mean[0] == pytest.approx(arrays.inputs.mean() / 255, abs=1e-6)
    assert scaling.std[0] == pytest.approx(arrays.inputs.std() / 255, abs=1e-6)


def test_holdout_is_disjoint_and_the_same_for_equal_seeds(folder: Path) -> None:
    found = load(config(dataset="idx", dataPath=str(folder), validationFraction=0.25))
    assert (len(found.train), len(found.validation)) == (90, 30)
    rows = {tuple(image.flatten().tolist()) for image in found.train.inputs}
    assert not any(tuple(image.flatten().tolist()) in rows for image in found.validation.inputs)
    assert load(config(dataset="idx", dataPath=str(folder), validationFraction=0.25)) is found
    smaller = load(
        config(dataset="idx", dataPath=str(folder), validationFraction=0.25, trainSize=40, validationSize=10)
    )
    assert torch.equal(smaller.validation.inputs, found.validation.inputs[:10])
    assert torch.equal(smaller.train.labels, found.train.labels[:40])
    other = load(config(dataset="idx", dataPath=str(folder), validationFraction=0.25, splitSeed=1))
    assert not torch.equal(other.validation.labels, found.validation.labels)


def test_the_test_set_validates_where_asked_for(folder: Path) -> None:
    found = load(config(dataset="idx", dataPath=str(folder), validation="test"))
    assert (len(found.train), len(found.validation)) == (120, 30)
    for name in ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"):
        (folder / name).unlink()
    split.cache_clear()
    with pytest.raises(UserError, match="no test set here: use validation holdout"):
        load(config(dataset="idx", dataPath=str(folder), validation="test"))


def test_a_large_set_is_scaled_batch_by_batch_to_the_same_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = config(dataset="idx", dataPath=str(folder), splitSeed=5)
    at_once = load(options).train.inputs
    split.cache_clear()
    monkeypatch.setattr(splits, "SCALE_AT_ONCE", 0)
    found = load(options)
    split.cache_clear()
    assert found.train.inputs.dtype == torch.uint8
    assert torch.equal(found.prepare(found.train.inputs), at_once)


def test_label_outside_the_network_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="has label 2, but classes is 2: raise classes"):
        load(config(dataset="idx", dataPath=str(folder), classes=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trainSize": 4000}, "trainSize is 4000, but only 1438 examples"),
        ({"validationSize": 4000}, "validationSize is 4000, but only 359"),
        ({"dataset": "fashion-mnist", "dataPath": "/nowhere"}, "dataset-fashion-mnist"),
        ({"dataset": "idx", "dataPath": "/nowhere"}, "looked for /nowhere/train-images-idx3-ubyte"),
        ({"dataset": "digits", "dataPath": "/nowhere"}, "leave dataPath out"),
    ],
)
def test_data_that_are_not_there_name_the_remedy(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(config(**options))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0\0\x0d\x03" + bytes(12), "is no IDX file of unsigned bytes with 3 dimensions: it starts with 00000d03"),
        (b"", "starts with nothing"),
        (b"\0\0\x08\x03\0\0", "ends within its header"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, 2, 2, 2) + bytes(7), "holds 7 bytes of data, its header says 8"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(data)
    with pytest.raises(UserError, match=message):
        read_idx(file, 3)


def test_truncated_gzip_is_named(tmp_path: Path) -> None:
    file = tmp_path / "x.gz"
    file.write_bytes(gzip.compress(idx(np.zeros((50, 9, 9))))[:-12])
    with pytest.raises(UserError, match="cannot be read"):
        read_idx(file, 3)


def test_a_worker_unpacks_a_gzipped_file_once(
    folder: Path, make_context: Callable[..., TrialContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = data_set("idx", str(folder)).load().inputs
    context = make_context()
    assert np.array_equal(data_set("idx", str(folder)).load().inputs, expected)
    (copy,) = context.cache.iterdir()

    def only_labels(file: Path) -> Any:
        assert "images" not in file.name, "unpacked again"
        return GZIP(file)

    monkeypatch.setattr(gzip, "open", only_labels)
    assert np.array_equal(data_set("idx", str(folder)).load().inputs, expected)
    monkeypatch.undo()
    copy.write_bytes(b"damaged")
    assert np.array_equal(data_set("idx", str(folder)).load().inputs, expected)
    assert np.array_equal(np.load(copy), expected[:, 0])


def test_images_and_labels_must_belong_together(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.zeros(7)))
    with pytest.raises(UserError, match=r"holds 30 images, .* 7 labels"):
        data_set("idx", str(folder)).load()


def test_torchvision_is_asked_for_files_on_disk_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []

    def cifar(**arguments: Any) -> Any:
        asked.append(arguments)
        if not any(tmp_path.iterdir()):
            raise RuntimeError("Dataset not found or corrupted.")
        count = 4 if arguments["train"] else 2
        return SimpleNamespace(data=np.zeros((count, 32, 32, 3), dtype=np.uint8), targets=[1] * count)

    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace(datasets=SimpleNamespace(CIFAR10=cifar)))
    source = data_set("cifar10", str(tmp_path))
    with pytest.raises(UserError, match="put cifar-10-batches-bin or the files of torchvision's CIFAR10 there"):
        source.load()
    (tmp_path / "here").touch()
    arrays = source.load()
    assert arrays.inputs.shape == (4, 3, 32, 32)
    assert arrays.test_labels is not None
    assert arrays.test_labels.tolist() == [1, 1]
    assert all(arguments["download"] is False for arguments in asked)


def test_missing_torchvision_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(UserError, match=r"pip install torchvision .*archsearch\[vision\]"):
        data_set("cifar100", str(tmp_path)).load()


def test_unknown_data_set_lists_the_known() -> None:
    with pytest.raises(UserError, match="no data set is named 'imagenet'") as caught:
        data_set("imagenet")
    assert all(name in str(caught.value) for name in names())


def test_names_of_classes_go_with_the_model(tmp_path: Path) -> None:
    named, numbered, headless = (tmp_path / f"{name}.csv" for name in ("named", "numbered", "headless"))
    named.write_text("a,b,kind\n1,2,yes\n2,1,no\n3,1,yes\n4,5,no\n")
    numbered.write_text("a,b,kind\n1,2,0\n2,1,1\n3,1,10\n")
    headless.write_text("1,2,0\n2,1,1\n")

    def output(file: Path) -> Any:
        return Classification(config(dataset="table", dataPath=str(file))).output()

    assert output(named) == {"classes": ["no", "yes"]}
    assert output(numbered) == {"classes": ["0", "1", "10"]}
    assert Classification(config(dataset="digits")).output() is None
    with pytest.raises(UserError, match=r"the first line \(1, 2, 0, …\) holds numbers: put column names above it"):
        output(headless)
