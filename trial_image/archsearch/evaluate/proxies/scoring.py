"""Scores of one network by name. Imports torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from archsearch.errors import UserError
from archsearch.evaluate.proxies import Proxy
from archsearch.evaluate.proxies.grad_norm import grad_norm
from archsearch.evaluate.proxies.jacov import jacov
from archsearch.evaluate.proxies.naswot import naswot
from archsearch.evaluate.proxies.probe import NotApplicable, Probe, Sample
from archsearch.evaluate.proxies.sizes import flops, params
from archsearch.evaluate.proxies.snip import snip
from archsearch.evaluate.proxies.synflow import synflow
from archsearch.evaluate.proxies.zico import zico

if TYPE_CHECKING:
    from torch import nn

    from archsearch.evaluate.measuring import Inputs
    from archsearch.evaluate.tasks import Task

MEASURES: Mapping[Proxy, Callable[[Probe], float]] = {
    Proxy.PARAMS: params,
    Proxy.FLOPS: flops,
    Proxy.GRAD_NORM: grad_norm,
    Proxy.SNIP: snip,
    Proxy.SYNFLOW: synflow,
    Proxy.NASWOT: naswot,
    Proxy.JACOV: jacov,
    Proxy.ZICO: zico,
}


@dataclass
class Scores:
    """Of one network.

    Attributes:
        values: by name; None where a proxy makes no sense or gives no finite number.
        left_out: why, by the names whose value is None.
    """

    values: dict[str, float | None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def score(network: nn.Module, sample: Sample, names: Sequence[Proxy], seed: int = 0) -> Scores:
    """Scores of a network as it is initialised; it stays as it is.

    Args:
        network: on the device to compute on.
        seed: of what the network draws by chance in training mode.

    Raises:
        UserError: the network does not take the sample's inputs.
    """
    found, probe = Scores(), Probe(network, sample, seed)
    for name in names:
        try:
            value = MEASURES[name](probe)
        except NotApplicable as error:
            found.values[name], found.left_out[name] = None, str(error)
            continue
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise UserError(f"the proxy {name.value} cannot be computed for this network: {error}") from error
        if not math.isfinite(value):
            found.left_out[name] = f"its value is {value}"
        found.values[name] = value if math.isfinite(value) else None
    return found


def sample_of(task: Task, inputs: Inputs, *, batch_size: int, batches: int, seed: int) -> Sample:
    """The first training batches of an evaluator, in an order drawn from `seed`, prepared and not augmented.

    Where the data are fewer than asked for, batches are smaller, and then fewer.
    """
    part = task.train
    order = torch.randperm(len(part), generator=torch.Generator().manual_seed(seed))[: batch_size * batches]
    taken = [rows for rows in torch.split(order, batch_size) if len(rows) > 1]
    drawn = [part.batch(rows, "cpu") for rows in taken]
    return Sample(inputs, [(task.prepare(each), targets) for each, targets in drawn], task.loss)


def noise(inputs: Inputs, *, batch_size: int, seed: int) -> Sample:
    """One batch of random inputs without targets, where no data are known: proxies that need a loss are left out."""
    generator = torch.Generator().manual_seed(seed)
    shape = (batch_size, *inputs.shape)
    values = torch.randint(0, inputs.tokens, shape, generator=generator) if inputs.tokens else None
    return Sample(inputs, [(torch.randn(shape, generator=generator) if values is None else values, None)])
