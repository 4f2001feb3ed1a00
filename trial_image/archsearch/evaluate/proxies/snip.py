"""SNIP: connection sensitivity. Imports torch."""

from __future__ import annotations

from archsearch.evaluate.proxies.probe import Probe


def snip(probe: Probe) -> float:
    """The sum over all weights of |weight · gradient of the loss|: what removing each alone would change at once.

    Lee, Ajanthan and Torr, "SNIP: single-shot network pruning based on connection sensitivity" (ICLR 2019), equation 5
    without its normalisation; summed up as a score of networks by Abdelfattah et al. (ICLR 2021).
    """
    pairs = zip(probe.weights, probe.gradients(), strict=True)
    return float(sum(float((weight.double() * gradient.double()).abs().sum()) for weight, gradient in pairs))
