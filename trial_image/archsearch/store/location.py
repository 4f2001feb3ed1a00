"""From a storage URI to its store."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from archsearch.errors import UserError
from archsearch.store.base import Credentials, Store

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*):(.*)$", re.DOTALL)
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_EXPECTED = "expected s3://BUCKET/PREFIX, file:///DIRECTORY or a plain path"


def open_store(
    uri: str,
    *,
    endpoint: str = "",
    region: str = "",
    path_style: bool = True,
    credentials: Credentials | None = None,
    ca_bundle: str = "",
) -> Store:
    """The store at `uri`. Nothing is read, written or connected to yet: `check` does that.

    Args:
        uri: `s3://bucket/prefix`, `file:///directory` or a plain path.
        endpoint: Base URL of an S3-compatible service; empty for AWS or what the environment says.
        region: Its region; empty for what the environment says, or us-east-1.
        path_style: Whether the bucket stands in the path, not in the host name.
        credentials: Keys; None for boto3's default chain.
        ca_bundle: PEM file of the certificate authorities that the endpoint's certificate is checked with.

    Raises:
        UserError: `uri`, `endpoint` or `ca_bundle` cannot be used; the text names it, without any secret in it.
    """
    if any(character in uri for character in "\0\r\n") or not uri.strip():
        raise UserError(f"storage URI {_shown(uri)!r} is empty or has line breaks in it: {_EXPECTED}")
    match = _SCHEME.match(uri)
    if match is None:
        return _directory(Path(uri).expanduser())
    scheme = match[1].lower()
    if scheme == "file":
        return _directory(_file_path(uri))
    if scheme != "s3":
        raise UserError(f"storage URI {_shown(uri)!r} has the scheme {scheme!r}: {_EXPECTED}")
    bucket, prefix = _bucket_and_prefix(uri)
    if endpoint:
        _check_endpoint(endpoint)
    if ca_bundle and not Path(ca_bundle).is_file():
        raise UserError(f"the CA bundle {ca_bundle!r} of the storage is no file: expected certificates in PEM form")
    from archsearch.store.s3 import S3Connection, S3Store

    connection = S3Connection(
        bucket,
        endpoint=endpoint.rstrip("/"),
        region=region,
        path_style=path_style,
        credentials=credentials,
        ca_bundle=ca_bundle,
    )
    return S3Store(connection, prefix)


class Service(Protocol):
    """What a manifest's `storage` and an assignment's say of the service that holds a store."""

    @property
    def endpoint(self) -> str: ...
    @property
    def region(self) -> str: ...
    @property
    def path_style(self) -> bool: ...


def open_at(service: Service, uri: str, *, credentials: Credentials | None = None, ca_bundle: str = "") -> Store:
    """The store at `uri` in a manifest's service. Arguments and errors as `open_store`."""
    return open_store(
        uri,
        endpoint=service.endpoint,
        region=service.region,
        path_style=service.path_style,
        credentials=credentials,
        ca_bundle=ca_bundle,
    )


def split_key(key: str) -> tuple[str, str]:
    """A directory's key as (URI of the store, key there); the URI is empty where it lies below the run's own folder."""
    plain = key.rstrip("/")
    if "://" not in plain and not plain.startswith("/"):
        return "", plain
    uri, _, name = plain.rpartition("/")
    return uri, name


def _directory(path: Path) -> Store:
    from archsearch.store.directory import DirectoryStore

    return DirectoryStore(path.absolute())


def _file_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path.startswith("/"):
        raise UserError(f"storage URI {_shown(uri)!r} names no absolute path: expected file:///DIRECTORY")
    return Path(unquote(parts.path))


def _bucket_and_prefix(uri: str) -> tuple[str, str]:
    rest = uri.split(":", 1)[1]
    bucket, _, prefix = rest.removeprefix("//").partition("/")
    if not rest.startswith("//") or not _BUCKET.match(bucket) or ".." in bucket:
        hint = " (keys belong in a Secret, not in the URI)" if "@" in bucket else ""
        raise UserError(
            f"storage URI {_shown(uri)!r} has no valid bucket name{hint}: expected s3://BUCKET/PREFIX, a bucket of "
            "3 to 63 lower-case letters, digits, dots and hyphens"
        )
    prefix = prefix.strip("/")
    if any(part in {"", ".", ".."} for part in prefix.split("/") if prefix) or set(prefix) & set("?#"):
        raise UserError(
            f"storage URI {_shown(uri)!r} has a prefix with an empty, . or .. part, or with ? or #: {_EXPECTED}"
        )
    return bucket, prefix


def _check_endpoint(endpoint: str) -> None:
    try:
        parts = urlsplit(endpoint)
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or "@" in endpoint or re.search(r"\s", endpoint) or parts.query or parts.fragment:
        raise UserError(
            f"storage endpoint {_shown(endpoint)!r} is no address: expected http(s)://HOST:PORT, without keys in it"
        )


def _shown(uri: str) -> str:
    """The text without what may be a password before an @, and not too long."""
    return re.sub(r"(^|//)[^/]*@", r"\1***@", uri)[:300]
