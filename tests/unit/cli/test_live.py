"""`archsearch validate` of a warm start: folders offline, ledgers with --live."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from archsearch_cli.output import Format
from archsearch_cli.validate import validate_file
from tests.support import fake_worker as fake


@pytest.fixture
def no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "no-kubeconfig"))


def manifest(folder: Path, earlier: Path) -> Path:
    document = fake.experiment(warmStart=[{"uri": str(earlier)}]).to_json()
    path = folder / "warm.yaml"
    path.write_text(yaml.safe_dump({**document, "metadata": {"name": "warm"}}))
    return path


async def test_the_runs_of_a_warm_start_are_looked_at(
    tmp_path: Path, no_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    await fake.run(tmp_path / "first", fake.experiment(budget={"maxTrials": 2}))
    file = manifest(tmp_path, tmp_path / "first")
    for live in (False, True):
        assert validate_file(file, (), live=live, output=Format.TABLE) == 0
    (tmp_path / "damaged" / "ledger").mkdir(parents=True)
    file = manifest(tmp_path, tmp_path / "damaged")
    assert validate_file(file, (), live=False, output=Format.TABLE) == 0  # a folder with a ledger, as far as that goes
    capsys.readouterr()
    assert validate_file(file, (), live=True, output=Format.TABLE) == 2
    assert f"error: spec.warmStart[0].uri: {tmp_path}/damaged holds no run of archsearch" in capsys.readouterr().err
    file = manifest(tmp_path, tmp_path / "nowhere")
    assert validate_file(file, (), live=False, output=Format.TABLE) == 2
    assert "spec.warmStart[0].uri: no run of archsearch is there" in capsys.readouterr().err
