"""`python -m archsearch.worker`: exits with 0 done, 78 refused by the driver, 143 told to go, 2 bad settings."""

from __future__ import annotations

import os
import sys

from archsearch.errors import UserError
from archsearch.worker.settings import parse
from archsearch.worker.supervisor import run

EXIT_BAD_SETTINGS = 2


def main() -> int:
    parent = os.getppid()
    try:
        return run(parse(sys.argv[1:], os.environ), parent)
    except UserError as error:
        print(f"archsearch worker: {error}", file=sys.stderr)  # noqa: T201
        return EXIT_BAD_SETTINGS


if __name__ == "__main__":
    sys.exit(main())
