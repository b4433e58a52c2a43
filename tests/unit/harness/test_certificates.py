"""Certificates of the cluster: who they speak for, and that one CA vouches for all."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.x509.oid import NameOID

from harness import pki
from harness.layout import ClusterLayout


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> ClusterLayout:
    made = ClusterLayout(name="x", cache=tmp_path_factory.mktemp("cache"))
    made.state.mkdir(parents=True)
    pki.create(made)
    return made


def certificate(layout: ClusterLayout, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((layout.pki / f"{name}.crt").read_bytes())


def test_every_certificate_is_signed_by_the_authority(layout: ClusterLayout) -> None:
    authority = certificate(layout, "ca")
    for identity in pki.identities(layout):
        certificate(layout, identity.file).verify_directly_issued_by(authority)


def test_nodes_speak_for_themselves_only(layout: ClusterLayout) -> None:
    node = certificate(layout, "node-n2")
    [group] = node.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)
    [name] = node.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (group.value, name.value) == ("system:nodes", "system:node:n2")
    names = node.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == ["10.99.0.12"]


def test_the_api_server_answers_to_its_service_name_and_addresses(layout: ClusterLayout) -> None:
    names = certificate(layout, "apiserver").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {str(address) for address in names.get_values_for_type(x509.IPAddress)} == {
        "127.0.0.1",
        "10.96.0.1",
        "10.99.0.10",
    }


def test_kubeconfigs_name_their_context_and_load(layout: ClusterLayout) -> None:
    config = yaml.safe_load(layout.kubeconfig.read_text())
    assert config["current-context"] == "x-local"
    assert [context["name"] for context in config["contexts"]] == ["x-local"]
    user = config["users"][0]["user"]
    ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"]).load_cert_chain(
        user["client-certificate"], user["client-key"]
    )


def test_keys_are_for_their_owner_only(layout: ClusterLayout) -> None:
    for path in [*layout.pki.glob("*.key"), *layout.pki.glob("*.kubeconfig"), layout.kubeconfig]:
        assert Path(path).stat().st_mode & 0o077 == 0, path
