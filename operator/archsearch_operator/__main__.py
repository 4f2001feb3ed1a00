"""``python -m archsearch_operator``: settings, logging, signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading

from archsearch.errors import UserError
from archsearch_operator.settings import load_settings


def main() -> int:
    try:
        settings = load_settings(sys.argv[1:], os.environ)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)  # one line for each event of each object otherwise
    from archsearch_operator.main import Operator

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        operator = Operator(settings)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    asyncio.run(operator.run(stop))
    return 0


if __name__ == "__main__":
    sys.exit(main())
