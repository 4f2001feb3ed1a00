"""Fixtures of all tests. Torch has one thread in each of them: several test processes share few cores."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported

from support.seaweedfs import s3_server

__all__ = ["s3_server"]
