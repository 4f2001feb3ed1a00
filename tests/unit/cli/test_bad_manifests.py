"""Every bad manifest is refused offline, with exit code 2 and a message that names field, value and remedy."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.bad_manifests import ALL, SOUND, Bad

from archsearch_cli.output import Format
from archsearch_cli.validate import validate_file


def test_there_are_enough_and_their_names_differ() -> None:
    names = [bad.name for bad in ALL]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


def test_the_sound_one_is_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sound.yaml"
    path.write_text(Bad("sound", "").manifest())
    assert SOUND["spec"]["parallelTrials"] == 2
    assert validate_file(path, (), live=False, output=Format.TABLE) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.name)
def test_refused_offline(bad: Bad, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(bad.manifest())
    assert validate_file(path, (), live=False, output=Format.TABLE) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert re.search(bad.offline, said.err, re.MULTILINE), said.err
    assert "Traceback" not in said.err
