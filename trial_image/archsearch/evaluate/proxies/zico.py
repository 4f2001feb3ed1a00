"""ZiCo: gradients that are large and alike from batch to batch. Imports torch."""

from __future__ import annotations

import math

import torch

from archsearch.evaluate.proxies.probe import NotApplicable, Probe


def zico(probe: Probe) -> float:
    """Σ over weight tensors of ln Σ over their weights of mean |gradient| / its standard deviation, over the batches.

    Li, Yang, Bhardwaj and Marculescu, "ZiCo: zero-shot NAS via inverse coefficient of variation on gradients" (ICLR
    2023), equation 16. Weights whose gradient is the same in all batches (that is, 0 throughout) do not count.

    Raises:
        NotApplicable: there is one batch only, or no loss.
    """
    count = len(probe.sample.batches)
    if count < 2:
        raise NotApplicable("it needs two batches of data or more")
    total = 0.0
    for gradients in zip(*(probe.gradients(number) for number in range(count)), strict=True):
        sizes = torch.stack([gradient.double().abs() for gradient in gradients])
        mean, spread = sizes.mean(0), sizes.std(0, correction=0)
        told = spread > 0
        ratio = float((mean[told] / spread[told]).sum())
        total += math.log(ratio) if ratio > 0 else 0.0
    return total
