"""A real API server for the whole session; `make test` builds it once, before the tests."""

import secrets
import shutil
from collections.abc import AsyncIterator, Iterator

import pytest

from mogile_operator.kube import Kube, connect
from testkit.apiserver import ApiServer, install_crds, raw

ADDRESS = "127.0.24.1"


@pytest.fixture(scope="session")
def api_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    folder = tmp_path_factory.mktemp("apiserver")
    server = ApiServer(folder, ADDRESS)
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
