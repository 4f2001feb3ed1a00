"""What the operator tells a strategy pod: everything that is not in the experiment itself, and no secret."""

from __future__ import annotations

from pydantic import Field

from archsearch.spec.base import Model
from archsearch.spec.experiment import Storage


class DriverSettings(Model):
    """The JSON in the environment variable ARCHSEARCH_DRIVER_SETTINGS of a strategy pod."""

    experiment: str
    namespace: str
    uid: str
    storage: Storage = Field(
        description="Resolved: the experiment's own, or the chart's default with the Secret that the operator made."
    )
    trial_image: str = Field(description="Resolved image of the trial pods.")
    image_pull_policy: str = "IfNotPresent"
    gpu_resource: str = "nvidia.com/gpu"
    service: str = Field(description="Headless Service whose name the trial pods resolve to reach the driver.")
    token_secret: str = Field(description="Secret with the key `token`, for the trial pods' init containers.")


def run_uri(storage_uri: str, namespace: str, name: str, uid: str) -> str:
    """The folder of one run in the cluster: a name that is used again starts anew."""
    return f"{storage_uri.rstrip('/')}/{namespace}/{name}/{uid}"
