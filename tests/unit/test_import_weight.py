"""What must import without torch does so in a process where torch cannot be imported at all."""

from __future__ import annotations

import subprocess
import sys

import pytest

TORCH_FREE = [
    "archsearch",
    "archsearch.protocol",
    "archsearch.registry",
    "archsearch.space",
    "archsearch.spec",
    "archsearch.spec.crd",
    "archsearch.spec.load",
    "archsearch.store",
    "archsearch.trial",
    "archsearch.worker.supervisor",
    "archsearch.evaluate.classification",
    "archsearch.evaluate.proxies.trial",
    "archsearch_strategies.algorithms.random",
    "archsearch_strategies.algorithms.regularized_evolution",
    "archsearch_strategies.checks",
    "archsearch_strategies.driver",
    "archsearch_strategies.launch.kubernetes",
    "archsearch_strategies.launch.local",
    "archsearch_strategies.ledger",
    "archsearch_strategies.lease.server",
    "archsearch_operator.main",
    "archsearch_cli.main",
]
# What starts fast must not pay for the clients of a cluster or a store that it may not need.
LIGHT = ["archsearch.spec", "archsearch.space", "archsearch_cli.main"]

_BLOCK = """
import sys, importlib
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {blocked!r}:
            raise ImportError(name + ' is blocked in this test')
sys.meta_path.insert(0, Block())
importlib.import_module({module!r})
"""


def _import_without(module: str, blocked: set[str]) -> subprocess.CompletedProcess[str]:
    code = _BLOCK.format(module=module, blocked=blocked)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", TORCH_FREE)
def test_imports_without_torch(module: str) -> None:
    done = _import_without(module, {"torch", "safetensors", "torchvision", "sklearn"})
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", LIGHT)
def test_imports_without_clients(module: str) -> None:
    done = _import_without(module, {"torch", "boto3", "botocore", "kubernetes", "kopf"})
    assert done.returncode == 0, done.stderr


def test_the_standard_library_keeps_its_operator() -> None:
    code = "import operator; assert operator.add(1, 2) == 3, operator"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=".")
    assert done.returncode == 0, done.stderr
