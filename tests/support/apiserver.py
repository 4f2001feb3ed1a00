"""A real API server for tests: etcd and kube-apiserver of KUBEBUILDER_ASSETS on ports of their own, or KUBECONFIG's.

There are no controllers, no scheduler and no node in the one that is started here: Jobs stay as they are created,
nothing is garbage-collected, and namespaces do not finish deleting. Use a namespace of your own.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

TOKEN = "archsearch-test-admin"
START_SECONDS = 120


class KubectlError(AssertionError):
    """kubectl ended with another code than 0."""


@dataclass
class ApiServer:
    """`kubectl` and `kubeconfig` for clients; `stop` and `start` where a test takes the server away (own one only)."""

    kubeconfig: Path
    kubectl_binary: str
    own: bool = False
    url: str = ""
    directory: Path | None = None
    _assets: Path | None = None
    _ports: tuple[int, int, int] = (0, 0, 0)
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def kubectl(
        self, *arguments: str, stdin: str | None = None, check: bool = True, timeout: float = 60
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.kubectl_binary, "--kubeconfig", str(self.kubeconfig), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "KUBECONFIG": str(self.kubeconfig)},
        )
        if check and done.returncode != 0:
            raise KubectlError(
                f"kubectl {' '.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}"
            )
        return done

    def get(self, *arguments: str) -> Any:
        """`kubectl get … -o json`, parsed."""
        return json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)

    def apply(self, document: Any, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        text = document if isinstance(document, str) else json.dumps(document)
        return self.kubectl("apply", "-f", "-", *arguments, stdin=text, check=check)

    def namespace(self) -> str:
        """Make a namespace of a name that was never used."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.kubectl("create", "namespace", name)
        if not self.own:  # there a controller makes it, and pods are refused until then
            self.kubectl("wait", "--for=create", "serviceaccount/default", "-n", name, "--timeout=60s", timeout=90)
        return name

    def install_crd(self, path: Path) -> None:
        """Apply a CRD and wait until it is served."""
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(path))
        self.kubectl("wait", "--for=condition=Established", "--timeout=60s", "-f", str(path))

    # The own server.

    def start(self) -> None:
        """Start etcd and the API server where they do not run, and wait until it is ready."""
        assert self.directory is not None
        assert self._assets is not None
        etcd, peer, secure = self._ports
        self._spawn(
            "etcd",
            [
                *("--data-dir", str(self.directory / "etcd"), "--unsafe-no-fsync"),
                *(
                    "--listen-client-urls",
                    f"http://127.0.0.1:{etcd}",
                    "--advertise-client-urls",
                    f"http://127.0.0.1:{etcd}",
                ),
                *(
                    "--listen-peer-urls",
                    f"http://127.0.0.1:{peer}",
                    "--initial-advertise-peer-urls",
                    f"http://127.0.0.1:{peer}",
                ),
                *("--initial-cluster", f"default=http://127.0.0.1:{peer}", "--log-level", "error"),
            ],
        )
        self._spawn(
            "kube-apiserver",
            [
                *("--etcd-servers", f"http://127.0.0.1:{etcd}"),
                *("--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--secure-port", str(secure)),
                *("--cert-dir", str(self.directory / "pki"), "--token-auth-file", str(self.directory / "tokens.csv")),
                *("--service-account-key-file", str(self.directory / "sa.key")),
                *("--service-account-signing-key-file", str(self.directory / "sa.key")),
                *("--service-account-issuer", "https://kubernetes.default.svc"),
                *(
                    "--service-cluster-ip-range",
                    "10.96.0.0/16",
                    "--authorization-mode",
                    "RBAC",
                    "--allow-privileged=true",
                ),
                # Their controllers do not run here.
                *("--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none"),
            ],
        )
        self._wait_ready()

    def stop(self, name: str = "kube-apiserver") -> None:
        """Stop the API server (or etcd) and wait until it is gone."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def close(self) -> None:
        for name in ("kube-apiserver", "etcd"):
            self.stop(name)

    def _spawn(self, name: str, arguments: list[str]) -> None:
        assert self._assets is not None
        assert self.directory is not None
        running = self._processes.get(name)
        if running is not None and running.poll() is None:
            return
        with (self.directory / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(self._assets / name), *arguments],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                preexec_fn=_die_with_parent,  # noqa: PLW1509  # one call into libc
            )

    def _wait_ready(self) -> None:
        assert self.directory is not None
        deadline = time.monotonic() + START_SECONDS
        while True:
            for name, process in self._processes.items():
                if process.poll() is not None:
                    tail = (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"{name} ended with {process.returncode}: {tail}")
            ready = self.kubectl("get", "--raw", "/readyz", check=False)
            if ready.returncode == 0 and self.kubectl("get", "namespace", "default", check=False).returncode == 0:
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"the API server was not ready in {START_SECONDS} s: {ready.stderr}")
            time.sleep(0.2)


def _die_with_parent() -> None:
    # PR_SET_PDEATHSIG; an API server without its etcd does not end by SIGTERM.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _private_key(path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        )
    )


def start_api_server(directory: Path, assets: Path) -> ApiServer:
    """Start one in `directory`. The caller closes it."""
    etcd, peer, secure = _free_ports(3)
    url = f"https://127.0.0.1:{secure}"
    (directory / "pki").mkdir(parents=True)
    _private_key(directory / "sa.key")
    (directory / "tokens.csv").write_text(f'{TOKEN},admin,admin,"system:masters"\n')
    kubeconfig = directory / "kubeconfig"
    # The server makes and signs its own certificate in --cert-dir; the file holds its authority as well.
    cluster = {"server": url, "certificate-authority": str(directory / "pki" / "apiserver.crt")}
    kubeconfig.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "test", "user": {"token": TOKEN}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            }
        )
    )
    kubectl = assets / "kubectl"
    server = ApiServer(
        kubeconfig,
        str(kubectl) if kubectl.exists() else "kubectl",
        own=True,
        url=url,
        directory=directory,
        _assets=assets,
        _ports=(etcd, peer, secure),
    )
    try:
        server.start()
    except BaseException:
        server.close()
        raise
    return server


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The session's API server. Without KUBEBUILDER_ASSETS and KUBECONFIG: skipped, and a failure where CI is set."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    given = os.environ.get("KUBECONFIG")
    if assets and (Path(assets) / "kube-apiserver").exists():
        server = start_api_server(tmp_path_factory.mktemp("apiserver"), Path(assets))
        try:
            yield server
        finally:
            server.close()
        return
    kubectl = shutil.which("kubectl")
    if given and kubectl:
        yield ApiServer(Path(given), kubectl)
        return
    message = "no API server: set KUBEBUILDER_ASSETS (a folder with etcd, kube-apiserver, kubectl) or KUBECONFIG"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
