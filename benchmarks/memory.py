"""Peak memory of a process, or of what it allocated on a device, for the benchmarks of steps."""

from __future__ import annotations

import gc
import sys
from pathlib import Path


class Memory:
    """Megabytes above what there was: of the process, or allocated on the device."""

    def __init__(self, device: str, *, compiler: bool = False) -> None:
        import torch

        self.device = device
        loaded(device)
        if compiler:
            compiler_loaded(device)
        self.reset()
        self.before = torch.cuda.memory_allocated() / 1e6 if device == "cuda" else _status("VmRSS")

    def reset(self) -> None:
        """Have the peak begin anew."""
        import torch

        gc.collect()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def peak(self) -> float:
        import torch

        now = torch.cuda.max_memory_allocated() / 1e6 if self.device == "cuda" else _status("VmHWM")
        return now - self.before


def _status(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(field))


def loaded(device: str) -> None:
    """Have the libraries behind convolutions loaded before memory is counted."""
    import torch

    x = torch.randn(2, 3, 8, 8, device=device, requires_grad=True)
    torch.nn.functional.conv2d(x, torch.randn(4, 3, 3, 3, device=device, requires_grad=True)).sum().backward()


def compiler_loaded(device: str) -> None:
    """Have the compiler loaded as well: it stays in a process that compiled, whatever the network."""
    import torch

    def small(x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(x.relu(), x).square().mean()

    try:
        torch.compile(small)(torch.randn(2, 2, 3, 3, device=device, requires_grad=True)).backward()
    except Exception as error:
        print(f"nothing is compiled here: {str(error).splitlines()[0]}", file=sys.stderr)
    torch.compiler.reset()
