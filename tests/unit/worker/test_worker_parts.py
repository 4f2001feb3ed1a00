"""Parts of the supervisor that need no process: limits, settings, logs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from archsearch.errors import UserError
from archsearch.protocol import LOG_TAIL_BYTES
from archsearch.spec import names
from archsearch.worker.channel import encode
from archsearch.worker.limits import Cgroup, gpu_name
from archsearch.worker.settings import child_environment, parse, take_secrets
from archsearch.worker.storage import log_tail

NEEDED = {names.ENV_DRIVER_URL: "http://driver:8470/", names.ENV_SECRETS_DIR: "/secrets"}


CGROUP_1 = {
    "cpu/b/cpu.cfs_quota_us": "50000",
    "cpu/b/cpu.cfs_period_us": "100000",
    "memory/b/memory.oom_control": "under_oom 0\noom_kill 3\n",
}


def cgroup(root: Path, membership: str, files: dict[str, str]) -> Cgroup:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "membership").write_text(membership)
    return Cgroup(root, root / "membership")


@pytest.mark.parametrize(
    ("membership", "files", "cpus", "kills"),
    [
        ("0::/a\n", {"a/cpu.max": "100000 100000\n", "a/memory.events": "oom 2\noom_kill 1\n"}, 1, 1),
        ("0::/host/path\n", {"cpu.max": "150000 100000\n", "memory.events": "oom_kill 4\n"}, 1, 4),
        (
            "4:memory:/b\n1:cpu,cpuacct:/b\n0::/\n",
            CGROUP_1,
            1,
            3,
        ),
        ("4:memory:/gone\n", {"memory/memory.oom_control": "oom_kill 7\n"}, len(os.sched_getaffinity(0)), 7),
        ("0::/\n", {"cpu.max": "max 100000\n"}, len(os.sched_getaffinity(0)), 0),
        ("", {}, len(os.sched_getaffinity(0)), 0),
    ],
)
def test_limits_of_both_cgroup_versions(
    tmp_path: Path, membership: str, files: dict[str, str], cpus: int, kills: int
) -> None:
    group = cgroup(tmp_path, membership, files)
    assert group.cpus() == cpus
    assert group.cpus(share=1000) == cpus
    assert group.cpus(share=1) == 1
    assert group.oom_kills() == kills


def test_the_gpus_name_is_read_from_the_drivers_files(tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    (tmp_path / "0000:01:00.0" / "information").write_text("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ: 1\n")
    assert gpu_name(tmp_path) == "NVIDIA H100 80GB HBM3"


def test_settings_come_from_flags_and_environment() -> None:
    flags = ["--metrics-port", "8471", "--per-job", "3", "--grace-seconds", "5"]
    settings = parse(flags, NEEDED | {names.ENV_WORKER_NAME: "pod-1", names.ENV_CODE_DIR: "/code"})
    assert settings.driver_url == "http://driver:8470"
    assert (settings.worker, settings.job, settings.per_job) == ("pod-1", "pod-1", 3)
    assert (settings.metrics_port, settings.grace_seconds, settings.code_dir) == (8471, 5.0, "/code")
    assert parse([], NEEDED).per_job == 0


def test_one_of_several_knows_its_number_and_its_address() -> None:
    member = {names.ENV_RANK: "1", names.ENV_RANKS: "3", names.ENV_ADDRESS: "10.0.0.7"}
    settings = parse(["--rendezvous-port", "8473"], NEEDED | member)
    assert (settings.rank, settings.ranks, settings.address, settings.port) == (1, 3, "10.0.0.7", 8473)
    alone = parse([], NEEDED)
    assert (alone.rank, alone.ranks, alone.address) == (0, 1, "")
    with pytest.raises(UserError, match=r"ARCHSEARCH_RANK is 3: it must be below ARCHSEARCH_RANKS, which is 3"):
        parse([], NEEDED | member | {names.ENV_RANK: "3"})
    with pytest.raises(UserError, match=r"ARCHSEARCH_ADDRESS is not set: it must hold the address where the other"):
        parse([], NEEDED | {names.ENV_RANK: "1", names.ENV_RANKS: "3"})


@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_per_job_must_be_a_number_or_auto(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse([f"--per-job={value}"], NEEDED)
    assert f"--per-job must be Auto or a number above 0, it is '{value}'" in capsys.readouterr().err


def test_secrets_are_read_once_and_shown_never(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token\n")
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("id")
    (tmp_path / "ca.crt").write_text("bundle")
    secrets = take_secrets(tmp_path)
    assert secrets.token == "a-token"
    assert secrets.storage == {"AWS_ACCESS_KEY_ID": "id"}
    assert secrets.ca_bundle == str(tmp_path / "ca.crt")
    assert "a-token" not in repr(secrets)
    assert [path.name for path in tmp_path.iterdir()] == ["ca.crt"]
    with pytest.raises(UserError, match="token is missing or empty"):
        take_secrets(tmp_path)


def test_user_code_gets_a_clean_environment() -> None:
    given = NEEDED | {"AWS_SECRET_ACCESS_KEY": "x", "AWS_PROFILE": "y", "PATH": "/bin", "OMP_NUM_THREADS": "64"}
    clean = child_environment(given, "/code")
    assert clean["PATH"] == "/bin"
    assert clean["OMP_NUM_THREADS"] == "1"
    assert clean[names.ENV_CODE_DIR] == "/code"
    assert not {*NEEDED, "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"} & set(clean)


def test_log_tails_are_bounded_and_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"".join(b"line %06d\n" % number for number in range(10_000)))
    tail = log_tail(log)
    assert len(tail) <= LOG_TAIL_BYTES
    assert tail.startswith(b"line ")
    assert tail.endswith(b"line 009999\n")
    assert log_tail(tmp_path / "absent") == b""


def test_a_log_that_user_code_replaced_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    assert log_tail(tmp_path / "link") == b""
    assert log_tail(tmp_path / "pipe") == b""


def test_nan_never_leaves_a_process() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode({"value": float("nan")})
