"""Export of a trained network, and the way back: `load`. Weights are safetensors, never a pickle. Imports torch."""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from archsearch.errors import StoreError, UserError
from archsearch.evaluate import bundle, kinds
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.models import build_space, describe_space, fixed
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ModelSpace
from archsearch.store import Credentials, open_store
from archsearch.store.checkpoint import write_manifest

if TYPE_CHECKING:
    from archsearch.trial.context import TrialContext

logger = logging.getLogger(__name__)

TOLERANCE = 1e-5


def load(
    uri: str | Path,
    *,
    trust_code: bool = False,
    endpoint: str = "",
    region: str = "",
    path_style: bool = True,
    credentials: Credentials | None = None,
    ca_bundle: str = "",
) -> nn.Module:
    """The exported network of a run, with its weights, in eval mode on the CPU.

    Its inputs are float32 of shape (batch, *input.shape*), scaled as ``(raw / divisor - mean) / std`` by channel with
    the constants in ``module.archsearch["input"]["scaling"]``; ``module.archsearch`` is what architecture.json holds.

    Args:
        uri: Folder or URI of a run, or of a model (`best/` of a run, or a copy of it).
        trust_code: Run the space's own Python code that lies beside the model; needed for spaces of a user's own code.
        endpoint, region, path_style, credentials, ca_bundle: As for `archsearch.store.open_store`.

    Raises:
        UserError: no exported model is there, or its space is a user's code and `trust_code` is False.
        StoreError: the store does not answer, or a file is damaged.
    """
    store = open_store(
        str(uri), endpoint=endpoint, region=region, path_style=path_style, credentials=credentials, ca_bundle=ca_bundle
    )
    found = bundle.Bundle(store)
    document = found.document()
    code = document.get("code")
    if code is None:
        model = _rebuild(document, found.store.uri)
    elif not trust_code:
        raise UserError(
            f"the search space of {found.store.uri} is code of its author, kept beside it in {bundle.CODE}/ (digest "
            f"{code.get('digest')}): read it, and pass trust_code=True to run it"
        )
    else:
        with tempfile.TemporaryDirectory(prefix="archsearch-code-") as folder:
            found.write_code(code, Path(folder))
            with bundle.imported_from(Path(folder)):
                model = _rebuild(document, found.store.uri)
    try:
        weights = safetensors.load(found.read(bundle.WEIGHTS))
        model.load_state_dict(weights)
    except (RuntimeError, SafetensorError) as error:
        raise StoreError(f"{found.store.uri}/{bundle.WEIGHTS} does not fit its architecture: {error}") from error
    model.archsearch = document  # type: ignore[assignment]  # nn.Module declares tensors and modules only
    return model.eval()


def _rebuild(document: JsonObject, where: str) -> nn.Module:
    try:
        model_space = ModelSpace.model_validate(document["modelSpace"])
        architecture = document["architecture"]
    except (KeyError, ValueError) as error:
        raise StoreError(f"{where}/{bundle.ARCHITECTURE} is damaged: {error}") from error
    with torch.random.fork_rng(devices=[]):  # drawing weights that are replaced at once must not disturb the caller's
        whole, _ = build_space(model_space)
        model, _ = fixed(whole, describe_space(whole), architecture, document.get("spaceDigest"))
    return model


def run_export(context: TrialContext) -> kinds.KindResult:
    """Write the trained network below ``context.artifacts``: what `load` reads, and a torch.export program.

    The weights come from the checkpoint that ``params.checkpoint`` names; where none was kept, the network is trained
    again from the trial's own seed. The program is for others; when torch cannot trace the network the rest is exported
    all the same, and the payload says why.

    Raises:
        UserError: as for an evaluate trial; or the checkpoint is of another architecture.
    """
    assignment = context.assignment
    setup = kinds.set_up(assignment.evaluator, assignment.model_space)
    if not getattr(setup.evaluator, "needs_network", True):
        raise UserError(
            f"the evaluator {assignment.evaluator.name!r} trains no network, so there are no weights to export; the best "
            "architectures are in summary.json"
        )
    kept = context.load_input()
    metrics: dict[str, float] = {}
    if kept is not None:
        seed_everything(context.seed)
        network: kinds.Network | None = kinds.network(assignment, setup)
        inputs = kept[1].get("input") or setup.input()
    else:
        network, metrics = kinds.train(context, setup)
        inputs = setup.input()
    if network is None:
        raise UserError(
            f"{assignment.evaluator.python} is plain trial code, which hands over no weights: call "
            "archsearch.trial.context.current().final_weights(model.state_dict()) in it to have them exported"
        )
    if kept is not None:
        try:
            network.model.load_state_dict(kept[0])
        except RuntimeError as error:
            raise UserError(
                f"the checkpoint {assignment.params.get('checkpoint')} is not of this architecture: {error}"
            ) from error
    model = network.model.to("cpu").eval()
    payload = write_model(model, network, inputs, context.artifacts)
    payload["weights"] = "checkpoint" if kept is not None else "trained"
    return kinds.KindResult(metrics, payload)


def write_model(model: nn.Module, network: kinds.Network, inputs: JsonObject, directory: Path) -> JsonObject:
    """Write all files of a model, the manifest last.

    Args:
        model: On the CPU, in eval mode.
        network: What it was made from.
        inputs: ``{shape, scaling}``; shape without the batch, null where it is not known.
        directory: Made if need be.

    Returns:
        ``{files, program, message}``: program is ``dynamic``, ``static`` (batches of one) or null; message says why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document: JsonObject = {
        "formatVersion": bundle.FORMAT_VERSION,
        "modelSpace": _portable(network.model_space),
        "architecture": network.architecture.to_json(),
        "spaceDigest": network.space.digest,
        "input": inputs,
    }
    if network.model_space.python is not None:
        code = bundle.user_code(network.model_space.python.class_.partition(":")[0])
        document["code"] = {"digest": bundle.code_digest(code), "files": sorted(code)}
        for name, data in code.items():
            path = directory / bundle.CODE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    (directory / bundle.ARCHITECTURE).write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    _save_weights(model, directory / bundle.WEIGHTS)
    program, message = _save_program(model, inputs.get("shape"), directory / bundle.PROGRAM)
    if message:
        logger.warning("no %s, or not as wanted: %s", bundle.PROGRAM, message)
    write_manifest(directory)
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {"files": files, "program": program, "message": message}


def _portable(model_space: ModelSpace) -> JsonObject:
    """The modelSpace without where its code came from: a copy lies beside the model."""
    document = model_space.to_json()
    document.get("python", {}).pop("source", None)
    return document


def _save_weights(model: nn.Module, path: Path) -> None:
    # Cloned one by one: safetensors refuses tensors that share memory (tied weights).
    weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    safetensors.save_file(weights, path)


def _save_program(model: nn.Module, shape: Any, path: Path) -> tuple[str | None, str]:
    if not shape:
        return None, "the shape of one input is not known: give modelSpace.python.inputShape"
    reasons: list[str] = []
    for form, batch in (("dynamic", 2), ("static", 1)):
        example = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
        dynamic = ({0: torch.export.Dim("batch", min=1)},) if form == "dynamic" else None
        try:
            program = torch.export.export(model, (example,), dynamic_shapes=dynamic)
            _same_outputs(model, program, example)
            torch.export.save(program, path)
        except Exception as error:  # torch.export raises what it likes; the rest of the export does not depend on it
            path.unlink(missing_ok=True)
            reasons.append(f"{form}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
            continue
        return form, "; ".join(reasons)[:2000]
    return None, "torch.export cannot trace the network: " + "; ".join(reasons)[:2000]


def _same_outputs(model: nn.Module, program: torch.export.ExportedProgram, example: torch.Tensor) -> None:
    with torch.no_grad():
        expected, found = model(example), program.module()(example)
    if not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"the exported program's outputs differ by {float((expected - found).abs().max())}")
