"""`python -m archsearch_strategies.driver`: what a strategy pod runs. All it needs is in its environment and mounts."""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from archsearch.errors import UserError
from archsearch.spec.wiring import DriverSettings
from archsearch_strategies.driver.cluster import EXIT_RETRY, StrategyPod, read_settings
from archsearch_strategies.launch.kubeapi import KubeApi


async def _run(settings: DriverSettings) -> int:
    return await StrategyPod(settings, KubeApi(settings.namespace)).run()


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        settings = read_settings(os.environ)
    except UserError as error:
        print(error, file=sys.stderr)  # noqa: T201 - the log of the pod
        return EXIT_RETRY
    return asyncio.run(_run(settings))


if __name__ == "__main__":
    sys.exit(main())
