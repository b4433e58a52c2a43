"""A real API server without machines: etcd and kube-apiserver on loopback, in a folder of their own.

The binaries are those the local cluster is made of. Nothing that is created runs, for there is no kubelet.
"""

import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness import tools
from mogile_operator.api import crdgen
from mogile_operator.kube import Kube
from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS, wait_for, wait_until

TOKEN = "admin-token"
OPERATOR_TOKEN = "operator-token"
USERS = f'{TOKEN},admin,1,"system:masters"\n{OPERATOR_TOKEN},system:serviceaccount:ops:operator,2\n'


class NotBuiltError(Exception):
    """A program that this needs is not there."""


def binary(tool: tools.Tool, name: str) -> Path:
    """A program of the local cluster."""
    path = tools.place(tool, tools.find_go()) / name
    if not path.exists():
        raise NotBuiltError(f"{name} is not built: `make test` builds it")
    return path


class ApiServer:
    """etcd and kube-apiserver in a folder, with an administrator and the operator's own user."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder = folder
        self.address = address
        self.kubeconfig = folder / "kubeconfig"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def start(self) -> None:
        """Start both; returns when the server is ready."""
        etcd, api = binary(tools.ETCD, "etcd"), binary(tools.KUBERNETES, "kube-apiserver")
        client, peer, port = (free_port(self.address) for _ in range(3))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "sa.key").write_bytes(pem)
        (self.folder / "tokens").write_text(USERS)
        urls = [
            f"--listen-client-urls=http://{self.address}:{client}",
            f"--advertise-client-urls=http://{self.address}:{client}",
        ]
        peers = [
            f"--listen-peer-urls=http://{self.address}:{peer}",
            f"--initial-advertise-peer-urls=http://{self.address}:{peer}",
        ]
        cluster = f"--initial-cluster=default=http://{self.address}:{peer}"
        self._spawn("etcd", [str(etcd), f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", *urls, *peers, cluster])
        self._spawn(
            "api",
            [
                str(api),
                f"--etcd-servers=http://{self.address}:{client}",
                f"--bind-address={self.address}",
                f"--advertise-address={self.address}",
                f"--secure-port={port}",
                f"--cert-dir={self.folder}/certs",
                f"--token-auth-file={self.folder}/tokens",
                f"--service-account-key-file={self.folder}/sa.key",
                f"--service-account-signing-key-file={self.folder}/sa.key",
                "--service-account-issuer=https://kubernetes.default.svc",
                "--service-cluster-ip-range=10.96.0.0/24",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--endpoint-reconciler-type=none",
            ],
        )
        self.url = f"https://{self.address}:{port}"
        self.kubeconfig.write_text(self.config(TOKEN))
        self.operator_kubeconfig = self.folder / "operator-kubeconfig"
        self.operator_kubeconfig.write_text(self.config(OPERATOR_TOKEN))
        self._wait()

    def config(self, token: str) -> str:
        """A kubeconfig for the holder of a token."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url, "insecure-skip-tls-verify": True}}],
            "users": [{"name": "test", "user": {"token": token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        return yaml.safe_dump(config)

    def _spawn(self, name: str, argv: list[str]) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self._processes.append(subprocess.Popen(argv, stdout=log, stderr=log, cwd=self.folder))

    @property
    def pids(self) -> list[int]:
        """etcd and the API server."""
        return [process.pid for process in self._processes]

    def _wait(self) -> None:
        insecure = ssl.create_default_context()
        insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})

        def ready() -> bool:
            for process in self._processes:
                assert process.poll() is None, (self.folder / "api.log").read_text()[-2000:]
            try:
                with urllib.request.urlopen(request, context=insecure, timeout=20) as answer:
                    return bool(answer.status == 200)
            except urllib.error.HTTPError as not_yet:
                not_yet.close()  # else its connection is complained about when some other test runs
                return False

        wait_until(ready, "the API server", 2 * EVENT_SECONDS)

    def stop(self) -> None:
        """The API server before etcd: without it, it would hang."""
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def raw(kube: Kube, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
    """Any request, for what the operator itself never does."""
    query = {"fieldManager": "test", "force": "true"} if "apply-patch" in content else {}
    return await kube._json(method, path, query, body, content)


async def install_crds(kube: Kube) -> None:
    """Our CRDs, and wait until the server knows them."""
    for document in crdgen.all_crds().values():
        name = document["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        await raw(kube, "PATCH", path, document, "application/apply-patch+yaml")

        async def established(path: str = path) -> bool:
            found = await raw(kube, "GET", path)
            conditions = {c["type"]: c["status"] for c in (found.get("status") or {}).get("conditions") or []}
            return conditions.get("Established") == "True"

        await wait_for(established, f"{name} to be established")
