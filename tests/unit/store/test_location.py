"""Storage URIs and endpoints, good and bad."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from archsearch.errors import UserError
from archsearch.store import Credentials, open_store


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket", "s3://bucket"),
        ("s3://bucket/", "s3://bucket"),
        ("s3://my.bucket-1/a/b/", "s3://my.bucket-1/a/b"),
        ("S3://bucket/a", "s3://bucket/a"),
        ("file:///data/runs", "/data/runs"),
        ("file:/data/my%20runs", "/data/my runs"),
        ("/data/runs/", "/data/runs"),
    ],
)
def test_good_uris(given: str, shown: str) -> None:
    assert open_store(given).uri == shown
    assert open_store(shown).uri == shown


def test_a_plain_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs/digits").uri == str(tmp_path / "runs" / "digits")


@pytest.mark.parametrize(
    ("uri", "text"),
    [
        ("", "is empty"),
        ("s3://a\nb/c", "line breaks"),
        ("gs://bucket/x", "scheme 'gs'"),
        ("http://host/bucket", "scheme 'http'"),
        ("s3:bucket/x", "no valid bucket"),
        ("s3:///x", "no valid bucket"),
        ("s3://Bucket/x", "no valid bucket"),
        ("s3://ab/x", "no valid bucket"),
        ("s3://bu_cket/x", "no valid bucket"),
        ("s3://a..b/x", "no valid bucket"),
        ("s3://bucket/a//b", "empty, . or .. part"),
        ("s3://bucket/../b", "empty, . or .. part"),
        ("s3://bucket/a?versionId=1", "with ? or #"),
        ("file://host/data", "no absolute path"),
        ("file:data", "no absolute path"),
    ],
)
def test_bad_uris_are_refused_with_the_remedy(uri: str, text: str) -> None:
    with pytest.raises(UserError) as caught:
        open_store(uri)
    assert text in str(caught.value)
    assert "expected" in str(caught.value)


def test_keys_in_a_uri_are_not_repeated() -> None:
    with pytest.raises(UserError) as caught:
        open_store("s3://AKIAEXAMPLE:topsecret@bucket/x")
    assert "topsecret" not in str(caught.value)
    assert "AKIAEXAMPLE" not in str(caught.value)
    assert "keys belong in a Secret" in str(caught.value)


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:8333", "http://", "ftp://host", "http://host:99999", "http://u:topsecret@host", "http://h o", "x"],
)
def test_bad_endpoints(endpoint: str) -> None:
    with pytest.raises(UserError, match=r"expected http\(s\)://HOST:PORT") as caught:
        open_store("s3://bucket", endpoint=endpoint)
    assert "topsecret" not in str(caught.value)


def test_a_missing_ca_bundle() -> None:
    with pytest.raises(UserError, match=r"/nowhere/ca\.crt"):
        open_store("s3://bucket", ca_bundle="/nowhere/ca.crt")


def test_credentials_from_a_mounted_secret(tmp_path: Path) -> None:
    assert Credentials.from_directory(tmp_path) is None
    (tmp_path / "AWS_ACCESS_KEY_ID").write_text("AKIAEXAMPLE\n")
    with pytest.raises(UserError, match="AWS_SECRET_ACCESS_KEY is empty"):
        Credentials.from_directory(tmp_path)
    (tmp_path / "AWS_SECRET_ACCESS_KEY").write_text("topsecret\n")
    credentials = Credentials.from_directory(tmp_path)
    assert credentials == Credentials("AKIAEXAMPLE", "topsecret")
    assert "topsecret" not in repr(credentials)
    with pytest.raises(UserError) as caught:
        Credentials("AKIA", "top\nsecret")
    assert "secret\n" not in str(caught.value)


def test_importing_the_store_loads_neither_boto3_nor_torch() -> None:
    code = (
        "import sys, archsearch.store, archsearch.store.checkpoint;"
        "archsearch.store.open_store('s3://bucket', region='x');"
        "print([name for name in ('boto3', 'botocore', 'torch', 'safetensors') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
