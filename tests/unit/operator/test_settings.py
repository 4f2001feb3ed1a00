"""Settings from flags and environment."""

from pathlib import Path

import pytest

from archsearch.errors import UserError
from archsearch_operator.settings import load_settings

PREFIX = "ARCHSEARCH_OPERATOR_"


def test_flags_win_over_the_environment_and_that_over_defaults() -> None:
    environment = {
        PREFIX + "TRIAL_IMAGE": "env:1",
        PREFIX + "WATCH_NAMESPACES": "a, b",
        PREFIX + "NETWORK_POLICY": "true",
    }
    settings = load_settings(["--trial-image", "flag:1"], environment)
    assert settings.trial_image == "flag:1"
    assert settings.watch_namespaces == ("a", "b")
    assert settings.network_policy is True
    assert settings.gpu_resource == "nvidia.com/gpu"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--trial-image"),
        (["--trial-image", "x", "--workers", "none"], "--workers"),
        (["--trial-image", "x", "--image-pull-policy", "Sometimes"], "--image-pull-policy"),
        (["--trial-image", "x", "--driver-resources", "{"], "DRIVER_RESOURCES"),
    ],
)
def test_a_wrong_value_names_its_flag_and_variable(arguments: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        load_settings(arguments, {})


def test_the_default_storages_keys_are_read_from_the_mounted_secret_each_time(tmp_path: Path) -> None:
    settings = load_settings(["--trial-image", "x", "--storage-secret-dir", str(tmp_path)], {})
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("id\n")
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("first")
    (tmp_path / "something-else").write_text("no key of a store")
    assert settings.storage_keys() == {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "first"}
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("second")
    assert settings.storage_keys()["AWS_SECRET_ACCESS_KEY"] == "second"
    assert "first" not in repr(settings)
