"""Whether a registry has an image: the OCI distribution API, asked without credentials."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

TIMEOUT_SECONDS = 15.0
_ACCEPT = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)
_LOCAL = re.compile(r"^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$")


@dataclass(frozen=True)
class ImageName:
    """The parts of an image's name, the defaults of container runtimes filled in."""

    registry: str
    repository: str
    reference: str  # tag or digest

    @classmethod
    def parse(cls, name: str) -> ImageName:
        rest, _, digest = name.partition("@")
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, path = first, remainder
        else:
            registry, path = "docker.io", rest if slash else f"library/{rest}"
        repository, colon, tag = path.rpartition(":")
        if not colon:
            repository, tag = path, "latest"
        return cls(registry, repository, digest or tag)

    def full(self) -> str:
        separator = "@" if ":" in self.reference else ":"
        return f"{self.registry}/{self.repository}{separator}{self.reference}"


def in_registry(image: ImageName) -> tuple[bool | None, str]:
    """Whether the registry has the image; None where it could not be asked. And why, in words."""
    host = "registry-1.docker.io" if image.registry == "docker.io" else image.registry
    scheme = "http" if _LOCAL.match(host) else "https"
    url = f"{scheme}://{host}/v2/{image.repository}/manifests/{image.reference}"
    try:
        status, challenge = _head(url, "")
        if status == 401 and (token := _token(challenge)):
            status, _ = _head(url, token)
    except (URLError, OSError, ValueError) as error:
        return None, f"{image.registry} does not answer: {getattr(error, 'reason', error)}"
    if status == 200:
        return True, ""
    if status == 404:
        return False, f"{image.registry} has no {image.repository}:{image.reference}"
    return None, f"{image.registry} answers {status} to who shows no credentials"


def _head(url: str, token: str) -> tuple[int, str]:
    headers = {"Accept": _ACCEPT} | ({"Authorization": f"Bearer {token}"} if token else {})
    try:
        with urlopen(Request(url, method="HEAD", headers=headers), timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            return int(answer.status), ""
    except HTTPError as error:
        return error.code, error.headers.get("WWW-Authenticate", "")


def _token(challenge: str) -> str:
    """An anonymous token for pulling, as the challenge tells; empty where none is given."""
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    realm = fields.pop("realm", "")
    if not challenge.lower().startswith("bearer") or not realm.startswith(("https://", "http://")):
        return ""
    try:
        with urlopen(f"{realm}?{urlencode(fields)}", timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
            found = json.load(answer)
    except HTTPError:
        return ""
    return str(found.get("token") or found.get("access_token") or "")
