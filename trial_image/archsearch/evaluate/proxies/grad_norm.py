"""Gradient norm. Imports torch."""

from __future__ import annotations

from archsearch.evaluate.proxies.probe import Probe


def grad_norm(probe: Probe) -> float:
    """The sum over weight tensors of the Euclidean norm of the loss's gradient after one batch.

    Abdelfattah, Mehrotra, Dudziak and Lane, "Zero-cost proxies for lightweight NAS" (ICLR 2021), section 3.1.
    """
    return float(sum(float(gradient.double().norm()) for gradient in probe.gradients()))
