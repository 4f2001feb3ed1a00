"""Tests on a device. They run from a plain checkout with torch, numpy, pydantic, safetensors and pytest:

python -m pytest tests/gpu                  # on a machine with a GPU
python -m pytest tests/gpu --device cpu     # the same on the CPU, those that ask for a GPU itself skipped
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for _part in ("trial_image", "strategies", "tests"):
    if str(ROOT / _part) not in sys.path:
        sys.path.insert(0, str(ROOT / _part))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cuda", choices=["cuda", "cpu"], help="what the tests of tests/gpu run on")


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> str:
    """What to run on. Without such a device the test is skipped, and says so."""
    import torch

    name: str = pytestconfig.getoption("--device", default="cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"needs a CUDA device: torch {torch.__version__} finds none here")
    return name


@pytest.fixture
def exact(device: str) -> Iterator[None]:
    """float32 as the CPU computes it, not TF32."""
    import torch

    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
