"""A real API server: etcd and kube-apiserver on loopback, in a folder of their own, for the whole session.

The binaries are those the local cluster is made of; `make test` builds them once, before the tests.
"""

import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from harness import tools
from mogile_operator.api import crdgen
from mogile_operator.kube import Kube, connect
from testkit.ports import free_port
from testkit.waiting import EVENT_SECONDS, wait_for, wait_until

ADDRESS = "127.0.24.1"
TOKEN = "admin-token"
OPERATOR_TOKEN = "operator-token"
USERS = f'{TOKEN},admin,1,"system:masters"\n{OPERATOR_TOKEN},system:serviceaccount:ops:operator,2\n'


def binary(tool: tools.Tool, name: str) -> Path:
    """A program of the local cluster."""
    path = tools.place(tool, tools.find_go()) / name
    if not path.exists():
        pytest.fail(f"{name} is not built: `make test` builds it")
    return path


class ApiServer:
    """The running pair."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self._processes: list[subprocess.Popen[bytes]] = []
        self.url = ""

    def start(self) -> None:
        etcd, api = binary(tools.ETCD, "etcd"), binary(tools.KUBERNETES, "kube-apiserver")
        client, peer, port = (free_port(ADDRESS) for _ in range(3))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / "sa.key").write_bytes(pem)
        (self.folder / "tokens").write_text(USERS)
        urls = [f"--listen-client-urls=http://{ADDRESS}:{client}", f"--advertise-client-urls=http://{ADDRESS}:{client}"]
        peers = [
            f"--listen-peer-urls=http://{ADDRESS}:{peer}",
            f"--initial-advertise-peer-urls=http://{ADDRESS}:{peer}",
        ]
        cluster = f"--initial-cluster=default=http://{ADDRESS}:{peer}"
        self._spawn("etcd", [str(etcd), f"--data-dir={self.folder}/etcd", "--unsafe-no-fsync", *urls, *peers, cluster])
        self._spawn(
            "api",
            [
                str(api),
                f"--etcd-servers=http://{ADDRESS}:{client}",
                f"--bind-address={ADDRESS}",
                f"--advertise-address={ADDRESS}",
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
        self.url = f"https://{ADDRESS}:{port}"
        self.kubeconfig.write_text(self.config(TOKEN))
        self.operator_kubeconfig = self.folder / "operator-kubeconfig"
        self.operator_kubeconfig.write_text(self.config(OPERATOR_TOKEN))
        self._wait()

    def config(self, token: str) -> str:
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

    def _wait(self) -> None:
        import ssl

        insecure = ssl.create_default_context()
        insecure.check_hostname, insecure.verify_mode = False, ssl.CERT_NONE
        request = urllib.request.Request(f"{self.url}/readyz", headers={"Authorization": f"Bearer {TOKEN}"})

        def ready() -> bool:
            for process in self._processes:
                assert process.poll() is None, (self.folder / "api.log").read_text()[-2000:]
            with urllib.request.urlopen(request, context=insecure, timeout=20) as answer:
                return bool(answer.status == 200)

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


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("apiserver")
    server = ApiServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def kube(api_server: ApiServer) -> AsyncIterator[Kube]:
    """A client, with our CRDs in place."""
    client = await connect(str(api_server.kubeconfig))
    try:
        await install_crds(client)
        yield client
    finally:
        await client.close()


@pytest.fixture
async def namespace(kube: Kube) -> str:
    """A namespace of the test's own."""
    name = f"test-{secrets.token_hex(4)}"
    await raw(kube, "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    return name


async def raw(kube: Kube, method: str, path: str, body: Any = None, content: str = "application/json") -> Any:
    """Any request, for what the operator itself never does."""
    query = {"fieldManager": "test", "force": "true"} if "apply-patch" in content else {}
    return await kube._json(method, path, query, body, content)


async def install_crds(kube: Kube) -> None:
    for document in crdgen.all_crds().values():
        name = document["metadata"]["name"]
        path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
        await raw(kube, "PATCH", path, document, "application/apply-patch+yaml")

        async def established(path: str = path) -> bool:
            found = await raw(kube, "GET", path)
            conditions = {c["type"]: c["status"] for c in (found.get("status") or {}).get("conditions") or []}
            return conditions.get("Established") == "True"

        await wait_for(established, f"{name} to be established")
