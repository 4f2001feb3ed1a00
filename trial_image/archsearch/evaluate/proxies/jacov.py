"""Jacobian covariance. Imports torch."""

from __future__ import annotations

import torch

from archsearch.evaluate.proxies.probe import NotApplicable, Probe, output

_SMALL = 1e-5


def jacov(probe: Probe) -> float:
    """−Σ ln(λ + k) + 1/(λ + k) over the eigenvalues λ of the correlation of the Jacobians of one batch, k = 1e-5.

    The Jacobian of an input is the gradient of the sum of its outputs with respect to it. Mellor, Turner, Storkey and
    Crowley, "Neural architecture search without training" (arXiv 2006.04647, version 1, 2020), section 3: high where
    the network is locally a different linear map for different inputs.

    Raises:
        NotApplicable: inputs are token numbers, which have no gradient, or an input changes no output.
    """
    if probe.sample.inputs.tokens:
        raise NotApplicable("token numbers have no gradient")
    network = probe.copy()
    inputs = probe.sample.batches[0][0].to(probe.device).clone().requires_grad_()
    total = output(network, inputs).sum()
    found = torch.autograd.grad(total, inputs, allow_unused=True)[0] if total.requires_grad else None
    if found is None:
        raise NotApplicable("the network's outputs do not depend on its inputs")
    jacobian = found.flatten(1).double()
    jacobian = jacobian - jacobian.mean(1, keepdim=True)
    norms = jacobian.norm(dim=1, keepdim=True)
    if not bool((norms > 0).all()):
        raise NotApplicable("an input of the batch changes no output, or all of its values alike")
    values = torch.linalg.eigvalsh(_correlation(jacobian / norms)).clamp_min(0.0) + _SMALL
    return float(-(values.log() + 1.0 / values).sum())


def _correlation(rows: torch.Tensor) -> torch.Tensor:
    """Of rows with mean 0 and norm 1; exactly symmetric."""
    product = rows @ rows.T
    return (product + product.T) / 2.0
