"""Export and load: the same outputs, nothing unpickled, damaged or foreign files refused in words."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import archsearch
from archsearch.errors import StoreError, UserError
from archsearch.evaluate import bundle
from archsearch.evaluate.classification import Classification, ClassificationConfig
from archsearch.evaluate.kinds import run_kind
from archsearch.store.checkpoint import read_checkpoint, verify_directory, write_manifest
from archsearch.trial.context import TrialContext

MakeContext = Callable[..., TrialContext]
Code = Callable[[str, str], str]

SPACE = """
import torch
from torch import nn
from their_blocks.convolutions import convolution
from archsearch.nn import LayerChoice

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.conv = LayerChoice({"three": convolution(3), "one": convolution(1)}, label="conv")
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, classes))

    def forward(self, inputs):
        return self.head(torch.relu(self.conv(inputs)))

class Branching(Net):
    def forward(self, inputs):
        if float(inputs.sum()) > 0:
            return super().forward(inputs)
        return super().forward(-inputs)

def fit(model, context):
    with torch.no_grad():
        model.head[1].bias.fill_(3.0)
    return 0.5
"""
BLOCKS = "from torch import nn\n\ndef convolution(size):\n    return nn.Conv2d(1, 4, size, padding=size // 2)\n"
FIRST = {"conv": "three"}


@pytest.fixture
def space(code: Code) -> None:
    code("exported_space", SPACE)
    code("their_blocks.__init__", "")
    code("their_blocks.convolutions", BLOCKS)


def evaluated(make_context: MakeContext, **fields: Any) -> tuple[Path, dict[str, float]]:
    context = make_context(keep_weights="Always", **fields)
    metrics = run_kind(context).metrics
    folder = context.save_final_weights(metrics)
    assert folder is not None
    return folder, metrics


def architecture_of(make_context: MakeContext, **fields: Any) -> dict[str, Any]:
    from archsearch.space import Rng, SearchSpace

    payload = run_kind(make_context(kind="describe", **fields)).payload
    return SearchSpace.from_json(payload["space"]).sample(Rng(2)).to_json()


def exported(make_context: MakeContext, checkpoint: Path | None, **fields: Any) -> tuple[Path, Any]:
    context = make_context(
        kind="export",
        number=None,
        params={"checkpoint": "trials/1/weights/1-1" if checkpoint else None, "target": "best"},
        input_checkpoint=checkpoint,
        **fields,
    )
    return context.artifacts, run_kind(context).payload


def test_the_winner_comes_back_with_its_accuracy(make_context: MakeContext) -> None:
    architecture = architecture_of(make_context)
    weights, metrics = evaluated(make_context, architecture=architecture)
    folder, payload = exported(make_context, weights, architecture=architecture)
    assert (payload["program"], payload["weights"], payload["message"]) == ("dynamic", "checkpoint", "")
    assert payload["files"] == ["architecture.json", "manifest.json", "model.pt2", "model.safetensors"]
    verify_directory(folder)
    before = torch.random.get_rng_state()
    model = archsearch.load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not model.training
    found = Classification(ClassificationConfig(dataset="digits", epochs=1, train_size=256)).split()
    with torch.no_grad():
        output = model(found.validation.inputs)
    accuracy = float((output.argmax(1) == found.validation.labels).float().mean())
    assert accuracy == pytest.approx(metrics["accuracy"])
    document = json.loads((folder / "architecture.json").read_text())
    assert document["formatVersion"] == 1
    assert document["architecture"] == architecture
    assert document["modelSpace"]["zoo"]["args"]["classes"] == 10
    assert document["input"] == {"shape": [1, 8, 8], "scaling": found.scaling.to_json()}
    program = torch.export.load(folder / "model.pt2").module()
    with torch.no_grad():
        assert torch.allclose(program(found.validation.inputs[:5]), output[:5], atol=1e-5)


def test_without_kept_weights_the_network_is_trained_again_from_its_seed(make_context: MakeContext) -> None:
    architecture = architecture_of(make_context)
    weights, _ = evaluated(make_context, architecture=architecture)
    folder, payload = exported(make_context, None, architecture=architecture)
    assert payload["weights"] == "trained"
    expected, found = read_checkpoint(weights)[0], archsearch.load(folder).state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def user_model(make_context: MakeContext, name: str = "Net", **python: Any) -> tuple[Path, Any]:
    fields = {
        "model_space": {"python": {"class": f"exported_space:{name}", "inputShape": [1, 8, 8], **python}},
        "evaluator": {"python": "exported_space:fit"},
        "architecture": FIRST,
    }
    weights, _ = evaluated(make_context, **fields)
    return exported(make_context, weights, **fields)


@pytest.mark.usefixtures("space")
def test_a_users_space_runs_only_when_trusted_and_from_its_copy(
    make_context: MakeContext, code: Code, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, payload = user_model(make_context)
    assert {"code/exported_space.py", "code/their_blocks/__init__.py", "code/their_blocks/convolutions.py"} <= set(
        payload["files"]
    )
    with pytest.raises(UserError, match="trust_code=True"):
        archsearch.load(folder)
    # The module here has changed since: the copy counts, and this one is as before afterwards.
    mine = sys.modules["exported_space"]
    blocks = sys.modules["their_blocks.convolutions"]
    monkeypatch.setattr(blocks, "convolution", None)
    path = list(sys.path)
    model = archsearch.load(folder, trust_code=True)
    assert sys.modules["exported_space"] is mine
    assert sys.modules["their_blocks.convolutions"] is blocks
    assert sys.path == path
    with torch.no_grad():
        assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert torch.equal(model.head[1].bias, torch.full((10,), 3.0))  # type: ignore[union-attr,index]


@pytest.mark.usefixtures("space")
def test_changed_code_is_refused_even_with_a_fresh_manifest(make_context: MakeContext) -> None:
    folder, _ = user_model(make_context)
    source = folder / "code" / "exported_space.py"
    source.write_text(source.read_text() + "\nprint('hello')\n")
    with pytest.raises(StoreError, match=r"exported_space.py is damaged"):
        archsearch.load(folder, trust_code=True)
    write_manifest(folder)
    with pytest.raises(StoreError, match="its digest differs"):
        archsearch.load(folder, trust_code=True)


@pytest.mark.usefixtures("space")
def test_a_network_that_torch_cannot_trace_is_exported_without_a_program(make_context: MakeContext) -> None:
    folder, payload = user_model(make_context, "Branching")
    assert payload["program"] is None
    assert "torch.export cannot trace the network" in payload["message"]
    assert "model.pt2" not in payload["files"]
    assert archsearch.load(folder, trust_code=True)(torch.ones(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.usefixtures("space")
def test_an_unknown_input_shape_is_told(make_context: MakeContext) -> None:
    folder, payload = user_model(make_context, inputShape=None)
    assert payload["program"] is None
    assert "give modelSpace.python.inputShape" in payload["message"]
    assert archsearch.load(folder, trust_code=True) is not None


@pytest.mark.usefixtures("space")
def test_a_run_or_its_model_is_taken_and_nothing_else(make_context: MakeContext, tmp_path: Path) -> None:
    folder, _ = user_model(make_context)
    run = tmp_path / "a run"
    shutil.copytree(folder, run / "best")
    for uri in (run, str(run), run / "best", f"file://{str(run).replace(' ', '%20')}"):
        assert archsearch.load(uri, trust_code=True) is not None
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no exported model: neither best/manifest.json nor manifest.json"):
        archsearch.load(tmp_path / "empty")


@pytest.mark.usefixtures("space")
@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\1"), "safetensors is damaged"),
        ("model.safetensors", Path.unlink, "model.safetensors is missing"),
        ("architecture.json", lambda path: path.write_text("{}"), "architecture.json is damaged"),
        ("manifest.json", lambda path: path.write_text("{"), "manifest.json is damaged"),
        (
            "manifest.json",
            lambda path: path.write_text('{"formatVersion": 9, "files": {}}'),
            "has the format version 9",
        ),
    ],
)
def test_damaged_models_are_named(
    make_context: MakeContext, name: str, change: Callable[[Path], Any], message: str
) -> None:
    folder, _ = user_model(make_context)
    change(folder / name)
    with pytest.raises((StoreError, UserError), match=message):
        archsearch.load(folder, trust_code=True)


@pytest.mark.usefixtures("space")
def test_load_opens_neither_the_program_nor_any_pickle(
    make_context: MakeContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = user_model(make_context)
    (folder / "model.pt2").write_bytes(b"\x80\x04cos\nsystem\n")

    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("unpickled")

    for place, attribute in ((torch, "load"), (torch.export, "load"), (__import__("pickle"), "Unpickler")):
        monkeypatch.setattr(place, attribute, forbidden)
    assert archsearch.load(folder, trust_code=True) is not None


@pytest.mark.usefixtures("space")
def test_a_space_that_changed_since_is_refused(make_context: MakeContext) -> None:
    folder, _ = user_model(make_context)
    document = json.loads((folder / "architecture.json").read_text())
    (folder / "architecture.json").write_text(json.dumps({**document, "spaceDigest": "0" * 64}))
    write_manifest(folder)
    with pytest.raises(UserError, match="the code or its arguments changed"):
        archsearch.load(folder, trust_code=True)


def test_weights_of_another_architecture_are_refused(make_context: MakeContext, space: None) -> None:
    fields = {
        "model_space": {"python": {"class": "exported_space:Net", "inputShape": [1, 8, 8]}},
        "evaluator": {"python": "exported_space:fit"},
    }
    weights, _ = evaluated(make_context, architecture={"conv": "one"}, **fields)
    with pytest.raises(UserError, match="checkpoint trials/1/weights/1-1 is not of this architecture"):
        exported(make_context, weights, architecture=FIRST, **fields)


def test_code_outside_its_folder_is_never_written(tmp_path: Path) -> None:
    outside = {"../evil.py": b"x = 1"}

    class Fake(bundle.Bundle):
        def __init__(self) -> None:
            from archsearch.store import open_store

            self.store = open_store(str(tmp_path))
            self.files = {"code/../evil.py": {}}

        def read(self, name: str) -> bytes:
            return outside[name.removeprefix("code/")]

    target = tmp_path / "code"
    target.mkdir()
    with pytest.raises(StoreError, match="outside its folder"):
        Fake().write_code({"digest": bundle.code_digest(outside)}, target)
    assert not (tmp_path / "evil.py").exists()
