"""What the chart tells the operator: one typed object, from flags or from ARCHSEARCH_OPERATOR_* in the environment."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator

from archsearch.errors import UserError
from archsearch.spec import names
from archsearch.spec.base import JsonObject, Model

ENV_PREFIX = "ARCHSEARCH_OPERATOR_"
PositiveSeconds = Annotated[float, Field(gt=0, le=86_400)]


class Settings(Model):
    """Everything that the operator can be told. A list is given with commas, an object as JSON."""

    trial_image: str = Field(
        min_length=1, description="Image of trial and strategy pods of experiments that name none."
    )
    image_pull_policy: str = Field(
        default="IfNotPresent", pattern="^(Always|IfNotPresent|Never)$", description="Pull policy of those pods."
    )
    gpu_resource: str = Field(default="nvidia.com/gpu", description="Extended resource that counts as a GPU.")
    network_policy: bool = Field(default=False, description="Make NetworkPolicies for the pods of each experiment.")
    driver_resources: JsonObject = Field(
        default={"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"memory": "2Gi"}},
        description="Resources of strategy pods of experiments that name none.",
    )

    watch_namespaces: tuple[str, ...] = Field(default=(), description="Namespaces to serve; none: all.")
    storage_uri: str = Field(default="", description="Storage of experiments that name none.")
    storage_endpoint: str = Field(default="", description="URL of its S3-compatible server; empty: AWS.")
    storage_region: str = Field(default="", description="Its region.")
    storage_secret_dir: str = Field(
        default="",
        description="Directory with its keys (a mounted Secret), copied into a Secret of each experiment that uses it.",
    )

    namespace: str = Field(default="default", description="The operator's own namespace, where its Lease lies.")
    identity: str = Field(default="", description="Name of this process in the Lease: the pod's name.")
    lease_name: str = Field(
        default="archsearch-operator", description="The Lease that keeps a second operator idle; empty: no guard."
    )
    lease_seconds: PositiveSeconds = Field(
        default=15.0, description="An operator that did not renew for so long has lost the Lease."
    )

    http_port: int = Field(
        default=names.METRICS_PORT,
        ge=0,
        le=65535,
        description="Port of /healthz, /readyz and /metrics; 0: any free one.",
    )
    workers: int = Field(default=8, ge=1, le=64, description="Experiments reconciled at the same time.")
    requests_per_second: float = Field(default=20.0, gt=0, description="API requests per second at most, over time.")
    request_burst: int = Field(default=40, ge=1, description="API requests that may be made at once.")
    request_timeout_seconds: PositiveSeconds = Field(default=30.0, description="One API request.")
    relist_seconds: PositiveSeconds = Field(
        default=45.0, description="Between two labelled LISTs that correct what the watches missed."
    )
    children_seconds: PositiveSeconds = Field(
        default=600.0, description="Children are applied again this often, against drift."
    )
    log_level: str = Field(
        default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$", description="Lowest level that is logged."
    )

    @field_validator("watch_namespaces", mode="before")
    @classmethod
    def _comma_list(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("driver_resources", mode="before")
    @classmethod
    def _json(cls, value: Any) -> Any:
        return json.loads(value or "{}") if isinstance(value, str) else value

    def storage_keys(self) -> dict[str, str]:
        """The default storage's keys as they are mounted now: a rotated Secret shows up here."""
        files = {key: Path(self.storage_secret_dir) / key for key in names.STORAGE_SECRET_KEYS}
        return {key: path.read_text().strip() for key, path in files.items() if path.is_file()}


def load_settings(arguments: Sequence[str], environment: Mapping[str, str]) -> Settings:
    """Flags over environment over defaults.

    Raises:
        UserError: a value does not fit; the message names the flag and the variable.
    """
    parser = argparse.ArgumentParser(prog="python -m archsearch_operator", description="The archsearch operator.")
    for name, field in Settings.model_fields.items():
        parser.add_argument(f"--{name.replace('_', '-')}", help=field.description, default=None, metavar="VALUE")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    values = {
        name: environment[f"{ENV_PREFIX}{name.upper()}"]
        for name in Settings.model_fields
        if environment.get(f"{ENV_PREFIX}{name.upper()}")
    } | given
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        fields = {field.alias or name: name for name, field in Settings.model_fields.items()}
        lines = []
        for fault in error.errors(include_url=False):
            name = fields.get(str(fault["loc"][0]), str(fault["loc"][0]))
            lines.append(f"--{name.replace('_', '-')} (or {ENV_PREFIX}{name.upper()}): {fault['msg']}")
        raise UserError("\n".join(lines)) from error
