"""What is special in a directory."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from archsearch.errors import StoreError, StoreUnavailable
from archsearch.store import open_store

WRITER = """
import sys
from archsearch.store import open_store
store = open_store(sys.argv[1])
print("ready", flush=True)
for number in range(10**9):
    store.put("same", b"%d" % number * 20_000)
    store.create(f"new/{number}", b"%d" % number * 2_000)
"""


def test_a_killed_writer_leaves_whole_objects_only(tmp_path: Path) -> None:
    for turn in range(3):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05 * (turn + 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    store = open_store(str(tmp_path))
    found = store.list()
    assert found
    assert not [info.key for info in found if not (info.key == "same" or info.key.startswith("new/"))]
    for info in found:
        data = store.get(info.key)
        unit = data[: len(data) // (20_000 if info.key == "same" else 2_000)]
        assert unit.isdigit()
        assert data == unit * (len(data) // len(unit))


def test_old_temporary_files_are_swept(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.put("x", b"")
    folder = tmp_path / ".archsearch-tmp"
    (folder / "old").touch()
    (folder / "new").touch()
    os.utime(folder / "old", (time.time() - 90_000,) * 2)
    store.check()
    assert sorted(os.listdir(folder)) == ["new"]
    assert [info.key for info in store.list()] == ["x"]


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="file is a file, not a directory"):
        open_store(str(tmp_path / "file" / "run")).check()
    store = open_store(str(tmp_path))
    for write in (store.put, store.create):
        with pytest.raises(StoreError, match="file/below: Not a directory; of the key and its folders"):
            write("file/below", b"")


def test_no_right_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(StoreError, match="no right to write"):
        open_store(str(tmp_path)).check()


@pytest.mark.parametrize(
    ("number", "expected", "text"),
    [(errno.ENOSPC, StoreUnavailable, "make room"), (errno.EROFS, StoreError, "check the directory's owner, rights")],
)
def test_errors_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[StoreError], text: str
) -> None:
    store = open_store(str(tmp_path))

    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(expected, match=text) as caught:
        store.put("k", b"x")
    assert type(caught.value) is expected
    assert store.list() == []
    assert os.listdir(tmp_path / ".archsearch-tmp") == []
