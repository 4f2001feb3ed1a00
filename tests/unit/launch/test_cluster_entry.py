"""The strategy pod's entry: what it reads, and what it says when that cannot be used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from support.launch import SETTINGS, FakeApi, experiment_spec

from archsearch.errors import UserError
from archsearch.spec import names
from archsearch.store import Store
from archsearch_strategies.driver import cluster
from archsearch_strategies.driver.cluster import StrategyPod, open_run_store, read_settings, read_token
from archsearch_strategies.launch.kubeapi import ApiError, KubeApi


class Api(FakeApi):
    """With the experiment and its status."""

    def __init__(self, raw: dict[str, Any] | None) -> None:
        super().__init__()
        self.raw = raw
        self.statuses: list[dict[str, Any]] = []

    async def get_experiment(self, name: str) -> dict[str, Any]:
        if self.raw is None:
            raise ApiError(404, "NotFound", name)
        return self.raw

    async def patch_status(self, name: str, status: dict[str, Any]) -> None:
        self.statuses.append(status["search"])

    async def watch_experiment(self, name: str, version: str) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}


def raw(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": "digits", "namespace": "lab", "uid": "uid-1", "generation": 1, "resourceVersion": "5"},
        "spec": {**experiment_spec().to_json(), **spec},
    }


def strategy_pod(api: Api) -> StrategyPod:
    return StrategyPod(SETTINGS, cast(KubeApi, api))


def test_settings_round_trip() -> None:
    assert read_settings({names.ENV_DRIVER_SETTINGS: json.dumps(SETTINGS.to_json())}) == SETTINGS


@pytest.mark.parametrize(
    ("environment", "told"),
    [
        ({}, "archsearch run FILE"),
        ({names.ENV_DRIVER_SETTINGS: "{}"}, "of one version"),
        ({names.ENV_DRIVER_SETTINGS: "not json"}, names.ENV_DRIVER_SETTINGS),
    ],
)
def test_settings_that_cannot_be_used(environment: dict[str, str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        read_settings(environment)


def test_a_secret_without_keys_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'keys' holds no AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        open_run_store(SETTINGS, secrets=tmp_path, ca_bundle=tmp_path)


def test_store_is_the_runs_own_folder(tmp_path: Path) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("key")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("secret")
    (tmp_path / "ca.crt").write_text("")
    storage = SETTINGS.storage.model_copy(update={"ca_config_map_name": ""})
    settings = SETTINGS.model_copy(update={"storage": storage})
    store: Store = open_run_store(settings, secrets=tmp_path, ca_bundle=tmp_path)
    assert store.uri == "s3://bucket/lab/digits/uid-1"


def test_a_missing_token_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_token(tmp_path)
    (tmp_path / "token").write_text("\n")
    with pytest.raises(UserError, match="is empty"):
        read_token(tmp_path)


async def test_a_spec_that_cannot_run_is_refused_and_the_pod_ends_well() -> None:
    api = Api(raw(objectives=[]))
    assert await asyncio.wait_for(strategy_pod(api).run(), 30) == cluster.EXIT_OK
    verdict = api.statuses[-1]["verdict"]
    assert verdict["accepted"] is False
    assert verdict["reason"] == "SpecInvalid"
    assert "spec.objectives" in verdict["message"]
    assert api.statuses[-1]["updatedTime"]
    assert api.created == []


async def test_an_experiment_that_is_gone_or_another_is_left_alone() -> None:
    other = raw()
    other["metadata"]["uid"] = "uid-2"
    for found in (None, other):
        api = Api(found)
        assert await asyncio.wait_for(strategy_pod(api).run(), 30) == cluster.EXIT_OK
        assert api.statuses == []
        assert api.created == []


async def test_a_template_that_the_api_server_refuses_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("key")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("secret")
    (tmp_path / "token").write_text("a-token-of-some-length")
    (tmp_path / "ca.crt").write_text("")
    for path in ("PATH_STORAGE_SECRET", "PATH_TOKEN", "PATH_CA_BUNDLE"):
        monkeypatch.setattr(names, path, str(tmp_path))
    api = Api(raw())
    cause = ("spec.template.spec.tolerations[0].operator", 'Unsupported value: "Sometimes"')
    api.refuse = [ApiError(422, "Invalid", "invalid", causes=(cause,))]
    assert await asyncio.wait_for(strategy_pod(api).run(), 30) == cluster.EXIT_OK
    message = api.statuses[-1]["verdict"]["message"]
    assert "spec.trials.template.tolerations[0].operator" in message
    assert "Sometimes" in message
