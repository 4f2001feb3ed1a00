"""The Lease that keeps a second operator idle. kopf's peering is no lock: two peers may both believe to be alone."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime

from archsearch.spec.base import JsonObject
from archsearch_operator.client import ApiError, KubeClient

_log = logging.getLogger(__name__)


class LeaseGuard:
    """Holds one coordination.k8s.io Lease.

    The holder's clock is never compared with ours: a Lease is free when we have seen it unchanged for its own duration.
    A holder of the same identity (this pod, before its container was started again) is taken over at once.
    """

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        name: str,
        identity: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client, self._namespace, self._name, self._seconds, self._clock = client, namespace, name, seconds, clock
        self._pod = identity
        self._identity = f"{identity or 'operator'}_{uuid.uuid4().hex[:8]}"
        self._seen: tuple[str, float] = ("", 0.0)  # the last version of somebody else's Lease, and since when we see it

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        told = False
        while not await self._try():
            if not told:
                _log.warning("another operator holds the Lease %s/%s; waiting for it", self._namespace, self._name)
                told = True
            await asyncio.sleep(min(2.0, self._seconds / 4))

    async def hold(self) -> None:
        """Renew until somebody else has the Lease, then return.

        While the API server is away nobody can take it, and nothing can be done wrong.
        """
        while True:
            await asyncio.sleep(self._seconds / 4)
            if not await self._try() and self._seen[0]:
                return

    async def release(self) -> None:
        """Let the next operator start at once."""
        try:
            lease = await self._client.get("Lease", self._namespace, self._name)
            if lease and lease["spec"].get("holderIdentity") == self._identity:
                lease["spec"] |= {"holderIdentity": None, "leaseDurationSeconds": 1}
                await self._client.replace(lease)
        except ApiError as error:
            _log.info("the Lease was not released: %s", error)

    async def _try(self) -> bool:
        try:
            lease = await self._client.get("Lease", self._namespace, self._name)
            if lease is None:
                await self._client.create(
                    self._written({"metadata": {"name": self._name, "namespace": self._namespace}})
                )
            elif self._free(lease):
                await self._client.replace(self._written(lease))
            else:
                return False
        except ApiError as error:
            if not error.temporary:
                _log.warning("the Lease %s/%s cannot be written: %s", self._namespace, self._name, error)
            return False
        self._seen = ("", 0.0)
        return True

    def _free(self, lease: JsonObject) -> bool:
        spec = lease.get("spec") or {}
        holder = spec.get("holderIdentity") or ""
        if not holder or holder == self._identity or (self._pod and holder.rpartition("_")[0] == self._pod):
            return True
        version = lease["metadata"]["resourceVersion"]
        if self._seen[0] != version:
            self._seen = (version, self._clock())
        return self._clock() - self._seen[1] > float(spec.get("leaseDurationSeconds") or self._seconds)

    def _written(self, lease: JsonObject) -> JsonObject:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        old = lease.get("spec") or {}
        mine = old.get("holderIdentity") == self._identity
        spec = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": max(1, round(self._seconds)),
            "acquireTime": old.get("acquireTime") if mine else now,
            "renewTime": now,
            "leaseTransitions": int(old.get("leaseTransitions") or 0) + (0 if mine else 1),
        }
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": lease["metadata"], "spec": spec}
