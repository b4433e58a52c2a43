"""Certificates and kubeconfigs of a cluster, made with the cryptography library and valid for a month.

One CA signs everything.  EC keys, because making a dozen RSA keys is the slowest part of a start; only the
service-account pair is RSA, which is what token signing is used with everywhere.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from harness.layout import (
    API_PORT,
    API_SERVICE_ADDRESS,
    CONTROL_PLANE_ADDRESS,
    DNS_DOMAIN,
    ClusterLayout,
)

VALID = dt.timedelta(days=30)
CLOCK_SKEW = dt.timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who a certificate speaks for: file name, common name, organisation (group) and addresses."""

    file: str
    name: str
    group: str = ""
    hosts: tuple[str, ...] = ()


def identities(layout: ClusterLayout) -> list[Identity]:
    """Every certificate of the cluster but the CA."""
    service_names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        f"kubernetes.default.svc.{DNS_DOMAIN}",
        "localhost",
    ]
    addresses = ["127.0.0.1", API_SERVICE_ADDRESS, CONTROL_PLANE_ADDRESS]
    fixed = [
        Identity(file="apiserver", name="kube-apiserver", hosts=(*service_names, *addresses)),
        Identity(file="admin", name="admin", group="system:masters"),
        Identity(file="controllers", name="mogile-harness", group="system:masters"),
        Identity(file="kcm", name="system:kube-controller-manager"),
        Identity(file="scheduler", name="system:kube-scheduler"),
        Identity(file="proxy", name="system:kube-proxy", group="system:node-proxier"),
        Identity(file="front", name="front-proxy"),
        Identity(file="apikubelet", name="kube-apiserver-kubelet", group="system:masters"),
    ]
    nodes = [
        Identity(
            file=f"node-{node.name}",
            name=f"system:node:{node.name}",
            group="system:nodes",
            hosts=(node.name, node.address),
        )
        for node in layout.nodes
    ]
    return fixed + nodes


KUBECONFIG_USERS = ("controllers", "kcm", "scheduler", "proxy")


def create(layout: ClusterLayout) -> None:
    """Write CA, certificates, the service-account pair and all kubeconfigs."""
    folder = layout.pki
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    authority = sign_authority(f"{layout.name}-ca", authority_key)
    _write_certificate(folder / "ca.crt", authority)
    _write_key(folder / "ca.key", authority_key)
    for identity in identities(layout):
        key = ec.generate_private_key(ec.SECP256R1())
        _write_certificate(folder / f"{identity.file}.crt", sign(identity, key, authority, authority_key))
        _write_key(folder / f"{identity.file}.key", key)
    account = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    _write_key(folder / "sa.key", account)
    encoding = serialization.Encoding.PEM
    public = account.public_key().public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / "sa.pub").write_bytes(public)
    for user in (*KUBECONFIG_USERS, *(f"node-{node.name}" for node in layout.nodes)):
        _write_private(folder / f"{user}.kubeconfig", kubeconfig(folder, user, context=layout.context).encode())
    _write_private(layout.kubeconfig, kubeconfig(folder, "admin", context=layout.context).encode())


def sign_authority(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A self-signed CA certificate."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(subject, subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def sign(
    identity: Identity,
    key: ec.EllipticCurvePrivateKey,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """A certificate for an identity, good for both ends of a TLS connection."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, identity.name)]
    if identity.group:
        attributes.insert(0, x509.NameAttribute(NameOID.ORGANIZATION_NAME, identity.group))
    builder = (
        _builder(x509.Name(attributes), authority.subject, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
    )
    if identity.hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative_names(identity.hosts)), critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def alternative_names(hosts: Sequence[str]) -> list[x509.GeneralName]:
    """Addresses as IP names, everything else as DNS names."""
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(x509.DNSName(host))
    return names


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
    )


def kubeconfig(folder: Path, user: str, *, context: str) -> str:
    """A kubeconfig with one context that names certificate files of the state directory."""
    cluster = {
        "server": f"https://{CONTROL_PLANE_ADDRESS}:{API_PORT}",
        "certificate-authority": str(folder / "ca.crt"),
    }
    credentials = {"client-certificate": str(folder / f"{user}.crt"), "client-key": str(folder / f"{user}.key")}
    return yaml.safe_dump(
        {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": context, "cluster": cluster}],
            "users": [{"name": user, "user": credentials}],
            "contexts": [{"name": context, "context": {"cluster": context, "user": user}}],
            "current-context": context,
        },
        sort_keys=False,
    )


def _write_certificate(path: Path, certificate: x509.Certificate) -> None:
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    form = serialization.PrivateFormat.TraditionalOpenSSL
    _write_private(path, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))


def _write_private(path: Path, data: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(data)
