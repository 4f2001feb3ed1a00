"""A bucket of an S3-compatible service as a store. boto3 is imported at the first request."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from archsearch.errors import StoreError, StoreUnavailable, UserError
from archsearch.store.base import Credentials, KeyMissing, ObjectInfo, Store, checked_key

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client

logger = logging.getLogger(__name__)
T = TypeVar("T")

_ATTEMPTS = 5
_CONNECT_SECONDS = 5.0
_READ_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 3.0
_PART_BYTES = 32 << 20
_CHUNK_BYTES = 1 << 20
_DELETE_BATCH = 1000  # the most that one request may name

_MISSING = {"NoSuchKey", "404", "NotFound"}
_AGAIN = {
    "SlowDown", "RequestTimeout", "RequestTimeoutException", "ThrottlingException", "Throttling", "TooManyRequests",
    "ConditionalRequestConflict", "OperationAborted", "InternalError", "ServiceUnavailable",
}  # fmt: skip
_REMEDIES = {
    "NoSuchBucket": "the bucket does not exist; create it or correct the storage URI",
    "InvalidAccessKeyId": "the access key is unknown; correct AWS_ACCESS_KEY_ID in the storage Secret or environment",
    "SignatureDoesNotMatch": "the secret key is wrong; correct AWS_SECRET_ACCESS_KEY in the Secret or environment",
    "ExpiredToken": "the session token has expired; renew AWS_SESSION_TOKEN",
    "InvalidToken": "the session token is wrong; correct AWS_SESSION_TOKEN",
    "AccessDenied": "access is denied: the keys are wrong, or have no right to list, read, write and delete here",
    "403": "access is denied: the keys are wrong, or have no right to list, read, write and delete here",
    "RequestTimeTooSkewed": "this machine's clock is wrong; set it",
    "PermanentRedirect": "the bucket lies in another region; set storage.region",
    "301": "the bucket lies in another region; set storage.region",
    "AuthorizationHeaderMalformed": "the bucket lies in another region; set storage.region",
    "IllegalLocationConstraintException": "the bucket lies in another region; set storage.region",
    "NotImplemented": "the service does not support this request; archsearch needs conditional writes (If-None-Match)",
    "501": "the service does not support this request; archsearch needs conditional writes (If-None-Match)",
}


class S3Connection:
    """One client, made at first use and shared by all stores of a bucket; makes our errors of the service's answers."""

    def __init__(
        self,
        bucket: str,
        *,
        endpoint: str = "",
        region: str = "",
        path_style: bool = True,
        credentials: Credentials | None = None,
        ca_bundle: str = "",
    ) -> None:
        self.bucket = bucket
        self._endpoint = endpoint
        self._region = region
        self._path_style = path_style
        self._credentials = credentials
        self._ca_bundle = ca_bundle
        self._lock = threading.Lock()
        self._client: S3Client | None = None

    def client(self) -> S3Client:
        with self._lock:  # making a client is not thread-safe, using it is
            if self._client is None:
                self._client = self._make_client()
            return self._client

    def _make_client(self) -> S3Client:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

        keys = self._credentials
        try:
            session = boto3.session.Session(
                aws_access_key_id=keys.access_key if keys else None,
                aws_secret_access_key=keys.secret_key if keys else None,
                aws_session_token=(keys.session_token or None) if keys else None,
                region_name=self._region or None,
            )
            client = session.client(
                "s3",
                endpoint_url=self._endpoint or None,
                region_name=session.region_name or "us-east-1",
                verify=self._ca_bundle or None,
                config=Config(
                    # Retries are ours alone: boto3's would meet 412 for our own write without telling.
                    retries={"total_max_attempts": 1},
                    connect_timeout=_CONNECT_SECONDS,
                    read_timeout=_READ_SECONDS,
                    max_pool_connections=32,
                    # Many compatible services do not know the newer checksum headers.
                    request_checksum_calculation="when_required",
                    response_checksum_validation="when_required",
                    s3={"addressing_style": "path" if self._path_style else "virtual"},
                ),
            )
            client.meta.events.register_last("before-call.s3", _without_expect)
            return client
        except (BotoCoreError, ValueError) as error:
            raise UserError(f"the settings of the storage {self.where()} cannot be used: {error}") from error

    def where(self) -> str:
        return f"s3://{self.bucket}" + (f" at {self._endpoint}" if self._endpoint else "")

    def call(self, what: str, request: Callable[[S3Client], T], *, attempts: int = _ATTEMPTS) -> T:
        """Run an idempotent request, again after a pause where that may help.

        Args:
            what: Key or prefix for error messages.
            request: May be called several times.

        Raises:
            KeyMissing, StoreUnavailable, StoreError
        """
        from botocore.exceptions import BotoCoreError, ClientError

        client = self.client()
        for attempt in range(1, attempts + 1):
            try:
                return request(client)
            except (ClientError, BotoCoreError) as error:
                failure = self._failure(what, error)
                if not isinstance(failure, StoreUnavailable) or attempt == attempts:
                    raise failure from error
                logger.debug("attempt %d of %d: %s", attempt, attempts, failure)
                pause = min(_FIRST_PAUSE_SECONDS * 4 ** (attempt - 1), _LONGEST_PAUSE_SECONDS)
                time.sleep(pause * (0.5 + random.random() / 2))
        raise AssertionError("the last attempt returns or raises")

    def _failure(self, what: str, error: Exception) -> StoreError:
        from botocore import exceptions as boto

        place = f"storage {self.where()}: {what}"
        if isinstance(error, boto.ClientError):
            code = str(error.response.get("Error", {}).get("Code", ""))
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            if code in _MISSING:
                return KeyMissing(f"{place}: no such object")
            if code in _REMEDIES:
                return StoreError(f"{place}: {_REMEDIES[code]} ({code})")
            if code in _AGAIN or status in {409, 429} or (status >= 500 and status != 501):
                return StoreUnavailable(f"{place}: the service answers {status} {code}")
            return StoreError(
                f"{place}: the service answers {status} {code}: {error.response['Error'].get('Message', '')}"
            )
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
            return StoreError(
                f"{place}: no keys found; give AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the environment, a "
                "profile, or the Secret that storage.secretName names"
            )
        if isinstance(error, boto.SSLError):
            return StoreError(
                f"{place}: the endpoint's certificate is not trusted; give its authority in storage.caConfigMapName "
                f"or AWS_CA_BUNDLE, or correct the endpoint ({type(error).__name__})"
            )
        if isinstance(error, boto.ConnectionError | boto.HTTPClientError | boto.IncompleteReadError):
            return StoreUnavailable(
                f"{place}: no answer ({type(error).__name__}); check that the endpoint is right and the service is up"
            )
        return StoreError(f"{place}: {type(error).__name__}: {error}")


def _without_expect(params: dict[str, Any], **_: object) -> None:
    """No `Expect: 100-continue`: it costs a round trip, and up to a second where a service is busy."""
    params["headers"].pop("Expect", None)


class S3Store(Store):
    """Objects below a prefix of one bucket."""

    def __init__(self, connection: S3Connection, prefix: str = "") -> None:
        self._connection = connection
        self._prefix = f"{prefix}/" if prefix else ""

    @property
    def uri(self) -> str:
        return f"s3://{self._connection.bucket}/{self._prefix}".rstrip("/")

    def child(self, prefix: str) -> S3Store:
        return S3Store(self._connection, self._prefix + checked_key(prefix))

    def get(self, key: str) -> bytes:
        return self._call(key, lambda client, where: client.get_object(**where)["Body"].read())

    def get_file(self, key: str, path: Path) -> None:
        temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")

        def fetch(client: S3Client, where: Any) -> None:
            body = client.get_object(**where)["Body"]
            with temporary.open("wb") as file:
                for chunk in body.iter_chunks(_CHUNK_BYTES):
                    file.write(chunk)

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._call(key, fetch)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        self._call(key, lambda client, where: client.put_object(**where, Body=data))

    def put_file(self, key: str, path: Path) -> None:
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(
            multipart_threshold=2 * _PART_BYTES,
            multipart_chunksize=_PART_BYTES,
            max_concurrency=4,
            num_download_attempts=1,
        )

        def send(client: S3Client, where: Any) -> None:
            with path.open("rb") as file:
                client.upload_fileobj(file, where["Bucket"], where["Key"], Config=config)

        self._call(key, send)

    def _create_once(self, key: str, data: bytes) -> bool:
        from botocore.exceptions import ClientError

        def attempt(client: S3Client, where: Any) -> bool:
            try:
                client.put_object(**where, Body=data, IfNoneMatch="*")
            except ClientError as error:
                if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 412:
                    return False
                raise
            return True

        return self._call(key, attempt)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        found: list[ObjectInfo] = []
        token: dict[str, Any] = {}
        while True:
            page = self._connection.call(
                prefix or "listing",
                lambda client, token=token: client.list_objects_v2(  # type: ignore[misc]
                    Bucket=self._connection.bucket, Prefix=self._prefix + prefix, **token
                ),
            )
            found += [
                ObjectInfo(entry["Key"][len(self._prefix) :], entry["Size"], entry["LastModified"].timestamp())
                for entry in page.get("Contents", ())
                if not entry["Key"].endswith("/")  # a folder's marker, as web consoles make them
            ]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda info: info.key)
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, keys: Iterable[str]) -> None:
        names = [self._prefix + checked_key(key) for key in keys]
        for start in range(0, len(names), _DELETE_BATCH):
            batch = names[start : start + _DELETE_BATCH]
            answer = self._connection.call(
                f"deleting {len(batch)} objects",
                lambda client, batch=batch: client.delete_objects(  # type: ignore[misc]
                    Bucket=self._connection.bucket, Delete={"Objects": [{"Key": name} for name in batch], "Quiet": True}
                ),
            )
            for error in answer.get("Errors", ()):
                code = error.get("Code", "")
                if code not in _MISSING:
                    text = (
                        f"storage {self._connection.where()}: deleting {error.get('Key')}: {_REMEDIES.get(code, code)}"
                    )
                    raise StoreUnavailable(text) if code in _AGAIN else StoreError(text)

    def exists(self, key: str) -> bool:
        try:
            self._call(key, lambda client, where: client.head_object(**where))
        except KeyMissing:
            return False
        return True

    def check(self) -> None:
        try:
            self._connection.call(
                "checking",
                lambda client: client.list_objects_v2(Bucket=self._connection.bucket, Prefix=self._prefix, MaxKeys=1),
                attempts=2,
            )
        except KeyMissing as error:  # a 404 to a listing is the bucket's
            raise StoreError(f"storage {self._connection.where()}: {_REMEDIES['NoSuchBucket']}") from error

    def _call(self, key: str, request: Callable[[S3Client, Any], T]) -> T:
        where = {"Bucket": self._connection.bucket, "Key": self._prefix + checked_key(key)}
        return self._connection.call(key, lambda client: request(client, where))
