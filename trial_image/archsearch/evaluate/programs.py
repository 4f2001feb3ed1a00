"""A network as a program for others: torch.export and ONNX, each compared with the network's own outputs."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from archsearch.evaluate.measuring import Inputs

TOLERANCE = 1e-5
NO_SHAPE = "the shape of one input is not known: give modelSpace.python.inputShape"
_MESSAGE_LIMIT = 2000


def save_program(model: nn.Module, inputs: Inputs | None, path: Path) -> tuple[str | None, str]:
    """Write a torch.export program. (form, message) as `_written` tells."""

    def write(example: Tensor, dynamic: bool) -> Callable[[Tensor], Tensor]:
        shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
        torch.export.save(program, path)
        run: Callable[[Tensor], Tensor] = program.module()
        return run

    return _written(model, inputs, path, "torch.export cannot trace the network", write)


def save_onnx(model: nn.Module, inputs: Inputs | None, path: Path) -> tuple[str | None, str]:
    """Write an ONNX model, all in one file. (form, message) as `_written` tells; needs the extra `onnx`."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        return None, f"the package {error.name} is not installed: pip install 'archsearch[onnx]'"

    def write(example: Tensor, dynamic: bool) -> Callable[[Tensor], Tensor]:
        shapes = ({0: torch.export.Dim("batch", min=1)},) if dynamic else None
        with _quiet():
            torch.onnx.export(
                model,
                (example,),
                path,
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                input_names=["input"],
                output_names=["output"],
                verbose=False,
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(batch: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: batch.numpy()})[0])

        return run

    return _written(model, inputs, path, "the network cannot be written as ONNX", write)


def _written(
    model: nn.Module,
    inputs: Inputs | None,
    path: Path,
    failure: str,
    write: Callable[[Tensor, bool], Callable[[Tensor], Tensor]],
) -> tuple[str | None, str]:
    """Write for batches of any size, or if that fails of one; compare outputs; leave no file that is not right.

    Returns:
        (``dynamic``, ``static`` or None, why it is not dynamic).
    """
    if inputs is None:
        return None, NO_SHAPE
    reasons: list[str] = []
    for form, size in (("dynamic", 2), ("static", 1)):
        example = inputs.example(size)
        try:
            run = write(example, form == "dynamic")
            for other in (example, inputs.example(5)) if form == "dynamic" else (example,):
                _same_outputs(model, run, other)
        except Exception as error:  # exporters raise what they like; the rest of the export does not depend on them
            path.unlink(missing_ok=True)
            text = str(error)
            reasons.append(f"{form}: {type(error).__name__}: {text.splitlines()[0] if text else ''}")
            continue
        return form, "; ".join(reasons)[:_MESSAGE_LIMIT]
    return None, f"{failure}: {'; '.join(reasons)}"[:_MESSAGE_LIMIT]


def _same_outputs(model: nn.Module, run: Callable[[Tensor], Tensor], example: Tensor) -> None:
    with torch.no_grad():
        expected, found = model(example), run(example)
    if not torch.allclose(expected, found, rtol=TOLERANCE, atol=TOLERANCE):
        raise ValueError(f"the exported program's outputs differ by {float((expected - found).abs().max())}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells its progress on standard output and in warnings about packages that it does not need."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
