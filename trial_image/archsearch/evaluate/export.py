"""Export of a trained network, and the way back: `load`. Weights are safetensors, never a pickle. Imports torch."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors
from torch import nn

from archsearch.errors import StoreError, UserError
from archsearch.evaluate import bundle, kinds, programs
from archsearch.evaluate.determinism import seed_everything
from archsearch.evaluate.measuring import Inputs
from archsearch.evaluate.models import build_space, describe_space, fixed, with_arguments
from archsearch.spec.base import JsonObject
from archsearch.spec.experiment import ModelSpace
from archsearch.store import Credentials, open_store
from archsearch.store.checkpoint import write_manifest

if TYPE_CHECKING:
    from archsearch.trial.context import TrialContext

logger = logging.getLogger(__name__)

FORMATS = ("onnx",)


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

    The weights come from the checkpoint that ``params.checkpoint`` names, with ``params.inherited`` from a supernet's
    (the other params are then those of the inherit trial); where none was kept, the network is trained
    again from the trial's own seed. ``params.formats`` may ask for ``onnx``. What torch cannot trace is left out, the
    rest is exported all the same, and the payload says why.

    Raises:
        UserError: as for an evaluate trial; the checkpoint is of another architecture; or an unknown format.
    """
    assignment = kinds.laid_over(context.assignment)
    formats = assignment.params.get("formats") or []
    if unknown := sorted(set(formats) - set(FORMATS)):
        raise UserError(f"there is no export format {unknown[0]!r}; besides the usual files: {', '.join(FORMATS)}")
    context.assignment = assignment
    setup = kinds.set_up(assignment.evaluator, assignment.model_space)
    if not getattr(setup.evaluator, "needs_network", True):
        raise UserError(
            f"the evaluator {assignment.evaluator.name!r} trains no network, so there are no weights to export; the "
            "best architectures are in summary.json"
        )
    inherits = bool(assignment.params.get("inherited"))
    kept = None if inherits else context.load_input()
    metrics: dict[str, float] = {}
    interface = {"input": setup.input(), "output": setup.output()}
    if kept is not None:
        tensors, state = kept
        interface |= {name: state[name] for name in interface if state.get(name)}
        if args := state.get("args"):  # a retrained network may have been built with more than the search's
            assignment = assignment.model_copy(update={"model_space": with_arguments(assignment.model_space, args)})
        seed_everything(context.seed)
        network = kinds.network(assignment, setup)
        _load(network, tensors, f"the checkpoint {assignment.params.get('checkpoint')}")
    elif inherits:
        network, metrics = _inherited(context, setup)
    else:
        network, metrics = _trained(context, setup)
    model = network.model.to("cpu").eval()
    payload = write_model(
        model,
        network,
        interface["input"] or {},
        context.artifacts,
        formats=formats,
        output=interface["output"],
    )
    payload["weights"] = "inherited" if inherits else "checkpoint" if kept is not None else "trained"
    return kinds.KindResult(metrics, payload)


def _inherited(context: TrialContext, setup: kinds.Setup) -> tuple[kinds.Network, dict[str, float]]:
    """The network as its inherit trial had it: shared weights, the normalizations' statistics measured anew."""
    from archsearch.supernet.run import build_overlaid, inherited, run_inherit

    assignment = context.assignment
    if assignment.architecture is None:
        raise UserError("an export needs an architecture, the assignment holds none")
    seed_everything(context.seed, context.device)
    whole, space, model_space = build_overlaid(setup, assignment)
    architecture = space.validate(assignment.architecture)
    model = inherited(context, whole, architecture)
    return kinds.Network(model, architecture, space, model_space), run_inherit(context, setup, model)


def _trained(context: TrialContext, setup: kinds.Setup) -> tuple[kinds.Network, dict[str, float]]:
    network, metrics = kinds.train(context, setup)
    if network is not None:
        return network, metrics
    if context.model is None:
        raise UserError(
            f"{context.assignment.evaluator.python} is plain trial code that has no model: call "
            "archsearch.trial.get_and_apply_next_architecture(model) in it to have its weights exported"
        )
    network = kinds.network(context.assignment, setup)
    _load(network, context.model.state_dict(), f"the model of {context.assignment.evaluator.python}")
    return network, metrics


def _load(network: kinds.Network, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    try:
        network.model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{what} is not of this architecture: {error}") from error


def write_model(
    model: nn.Module,
    network: kinds.Network,
    inputs: JsonObject,
    directory: Path,
    *,
    formats: Sequence[str] = (),
    output: JsonObject | None = None,
) -> JsonObject:
    """Write all files of a model, the manifest last.

    Args:
        model: On the CPU, in eval mode.
        network: What it was made from.
        inputs: ``{shape, scaling}``; shape without the batch, null where it is not known; of text also ``tokens``.
        directory: Made if need be.
        formats: Some of `FORMATS`.
        output: What the outputs mean, where something is to be said.

    Returns:
        ``{files, program, message}``: program is ``dynamic``, ``static`` (batches of one) or null; message says why.
        Of ``onnx``, if asked for, the same as ``onnx`` and ``onnxMessage``.
    """
    directory.mkdir(parents=True, exist_ok=True)
    document: JsonObject = {
        "formatVersion": bundle.FORMAT_VERSION,
        "modelSpace": _portable(network.model_space),
        "architecture": network.architecture.to_json(),
        "spaceDigest": network.space.digest,
        "input": inputs,
        **({"output": output} if output else {}),
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
    example = _example(inputs)
    forms = {"program": (bundle.PROGRAM, programs.save_program)}
    if "onnx" in formats:
        forms["onnx"] = (bundle.ONNX, programs.save_onnx)
    found: JsonObject = {}
    for name, (file, save) in forms.items():
        form, message = save(model, example, directory / file)
        if message:
            logger.warning("no %s, or not as wanted: %s", file, message)
        found |= {name: form, "message" if name == "program" else f"{name}Message": message}
    write_manifest(directory)
    files = sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())
    return {"files": files, **found}


def _portable(model_space: ModelSpace) -> JsonObject:
    """The modelSpace without where its code came from: a copy lies beside the model."""
    document = model_space.to_json()
    document.get("python", {}).pop("source", None)
    return document


def _save_weights(model: nn.Module, path: Path) -> None:
    # Cloned one by one: safetensors refuses tensors that share memory (tied weights).
    weights = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
    safetensors.save_file(weights, path)


def _example(inputs: JsonObject) -> Inputs | None:
    shape = inputs.get("shape")
    return Inputs(tuple(shape), len((inputs.get("tokens") or {}).get("vocabulary", ()))) if shape else None
