"""What this container may use and what became of it: CPUs, out-of-memory kills, the GPU's name. cgroup v1 and v2."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cgroup:
    """The control group of this process. In a container its path may be the host's, and its root what is mounted."""

    root: Path = _ROOT
    proc: Path = Path("/proc/self/cgroup")

    def cpus(self, share: int = 0) -> int:
        """Whole CPUs that the CPU limit and the affinity leave, at least 1; no more than `share` where one is given."""
        usable = float(len(os.sched_getaffinity(0)))
        quota = self._quota()
        whole = max(1, int(min(usable, quota) if quota else usable))
        return min(whole, share) if share else whole

    def oom_kills(self) -> int:
        """Processes of this group that were killed for memory so far; 0 where the kernel does not tell."""
        return max(self._counter("memory", "memory.oom_control"), self._counter("", "memory.events"))

    def _quota(self) -> float | None:
        limits = self._read("", "cpu.max").split()
        if not limits:
            limits = [self._read("cpu", "cpu.cfs_quota_us").strip(), self._read("cpu", "cpu.cfs_period_us").strip()]
        try:
            quota, period = float(limits[0]), float(limits[1])
        except (ValueError, IndexError):
            return None  # "max", or no such file
        return quota / period if quota > 0 and period > 0 else None

    def _counter(self, controller: str, name: str) -> int:
        for line in self._read(controller, name).splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and value.isdigit():
                return int(value)
        return 0

    def _read(self, controller: str, name: str) -> str:
        for folder in (self._folder(controller), Path()):
            for base in (self.root / controller, self.root / "unified" if not controller else None):
                if base is None:
                    continue
                try:
                    return (base / folder / name).read_text()
                except OSError:
                    continue
        return ""

    def _folder(self, controller: str) -> Path:
        try:
            lines = self.proc.read_text().splitlines()
        except OSError:
            return Path()
        for line in lines:
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(",") and (controller or controllers == ""):
                return Path(path.lstrip("/"))
        return Path()


def gpu_name(driver: Path = Path("/proc/driver/nvidia/gpus")) -> str:
    """The model of the first GPU, or `cpu`. Asks the driver's files, then nvidia-smi; never CUDA."""
    for information in sorted(driver.glob("*/information")):
        for line in information.read_text().splitlines():
            if line.startswith("Model:"):
                return line.partition(":")[2].strip() or "cpu"
    if not Path("/dev/nvidiactl").exists():
        return "cpu"
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return next((line.strip() for line in answer.stdout.splitlines() if line.strip()), "cpu")
