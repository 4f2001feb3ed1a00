"""SynFlow. Imports torch."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from archsearch.evaluate.proxies.probe import NotApplicable, Probe, output


def synflow(probe: Probe) -> float:
    """ln(1 + Σ θ·∂R/∂θ) over the weights θ of the network made linear: |θ| for every parameter, an input of ones.

    R is the sum of the outputs. Tanaka, Kunin, Yamins and Ganguli, "Pruning neural networks without any data by
    iteratively conserving synaptic flow" (NeurIPS 2020), section 5; summed up as a score by Abdelfattah et al. (ICLR
    2021). Batch normalisation is left out (it would undo the flow), and all is in double precision; the logarithm keeps
    the score printable, and the order of networks as it is.

    Raises:
        NotApplicable: inputs are token numbers, or the flow is larger than double precision.
    """
    inputs = probe.sample.inputs
    if inputs.tokens:
        raise NotApplicable("an input of ones means nothing to a network of token numbers")
    network = _without_batch_norm(probe.copy().eval()).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.abs_()
    weights = [each for each in network.parameters() if each.requires_grad and each.ndim >= 2]
    ones = torch.ones((1, *inputs.shape), dtype=torch.float64, device=probe.device)
    total = output(network, ones).sum()
    if not weights or not total.requires_grad:
        return 0.0
    gradients = torch.autograd.grad(total, weights, allow_unused=True)
    flow = sum(float((w.detach() * g).sum()) for w, g in zip(weights, gradients, strict=True) if g is not None)
    if not flow < float("inf"):
        raise NotApplicable("its flow is beyond double precision in this network")
    return float(torch.log1p(torch.tensor(max(flow, 0.0), dtype=torch.float64)))


def _without_batch_norm(network: nn.Module) -> nn.Module:
    if isinstance(network, _BatchNorm):
        return nn.Identity()
    for name, child in network.named_children():
        setattr(network, name, _without_batch_norm(child))
    return network
