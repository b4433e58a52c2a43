"""etcd, API server, controller manager, scheduler, and a kube-proxy for the client namespace.

The kube-proxy here makes service addresses work for test programs without leaning on any node, so that a story may
kill whichever node it likes.  etcd does not sync to disk: the cluster's state does not outlive it anyway.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import yaml

from harness import cgroups
from harness.api import ApiClient, ApiError
from harness.errors import HarnessError
from harness.layout import (
    API_PORT,
    CONTROL_PLANE_ADDRESS,
    DNS_DOMAIN,
    POD_NETWORK,
    SERVICE_NETWORK,
    ClusterLayout,
)
from harness.proc import ProcessRecord, in_netns, isolated, spawn, tail
from harness.timeouts import timeout_of
from harness.tools import Toolbox

ETCD_CLIENT = "http://127.0.0.1:2379"
ETCD_PEER = "http://127.0.0.1:2380"
ISSUER = f"https://kubernetes.default.svc.{DNS_DOMAIN}"
CLIENT_NODE_NAME = "cp"


def start_in_client(layout: ClusterLayout, name: str, argv: Sequence[str]) -> ProcessRecord:
    """Start a control plane program in the client namespace."""
    return spawn(
        name,
        in_netns(layout.client_netns, *argv),
        cgroup_procs=cgroups.system_procs(f"{layout.name}/cp"),
        log=layout.logs / f"{name}.log",
        records=layout.pids,
    )


def etcd_arguments(layout: ClusterLayout) -> list[str]:
    return [
        f"--data-dir={layout.state / 'etcd'}",
        f"--listen-client-urls={ETCD_CLIENT}",
        f"--advertise-client-urls={ETCD_CLIENT}",
        f"--listen-peer-urls={ETCD_PEER}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def apiserver_arguments(layout: ClusterLayout) -> list[str]:
    pki = layout.pki
    return [
        f"--etcd-servers={ETCD_CLIENT}",
        f"--bind-address={CONTROL_PLANE_ADDRESS}",
        f"--advertise-address={CONTROL_PLANE_ADDRESS}",
        f"--secure-port={API_PORT}",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--service-account-key-file={pki / 'sa.pub'}",
        f"--service-account-signing-key-file={pki / 'sa.key'}",
        f"--service-account-issuer={ISSUER}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--kubelet-client-certificate={pki / 'apikubelet.crt'}",
        f"--kubelet-client-key={pki / 'apikubelet.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--requestheader-client-ca-file={pki / 'ca.crt'}",
        "--requestheader-allowed-names=front-proxy",
        "--requestheader-username-headers=X-Remote-User",
        "--requestheader-group-headers=X-Remote-Group",
        "--requestheader-extra-headers-prefix=X-Remote-Extra-",
        f"--proxy-client-cert-file={pki / 'front.crt'}",
        f"--proxy-client-key-file={pki / 'front.key'}",
        "--allow-privileged=true",
    ]


def controller_manager_arguments(layout: ClusterLayout) -> list[str]:
    pki = layout.pki
    config = pki / "kcm.kubeconfig"
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        f"--service-account-private-key-file={pki / 'sa.key'}",
        f"--root-ca-file={pki / 'ca.crt'}",
        f"--cluster-signing-cert-file={pki / 'ca.crt'}",
        f"--cluster-signing-key-file={pki / 'ca.key'}",
        "--use-service-account-credentials=true",
        f"--cluster-cidr={POD_NETWORK}",
        f"--service-cluster-ip-range={SERVICE_NETWORK}",
        "--allocate-node-cidrs=false",
        "--node-monitor-period=2s",
        "--node-monitor-grace-period=20s",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]


def scheduler_arguments(layout: ClusterLayout) -> list[str]:
    config = layout.pki / "scheduler.kubeconfig"
    return [
        f"--kubeconfig={config}",
        f"--authentication-kubeconfig={config}",
        f"--authorization-kubeconfig={config}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
    ]


def proxy_configuration(layout: ClusterLayout, node_name: str) -> str:
    """kube-proxy's configuration; the conntrack limits are machine-wide and read-only in a namespace, so left alone."""
    return yaml.safe_dump(
        {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "iptables",
            "clusterCIDR": POD_NETWORK,
            "hostnameOverride": node_name,
            "oomScoreAdj": 0,
            "clientConnection": {"kubeconfig": str(layout.pki / "proxy.kubeconfig")},
            "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "iptables": {"syncPeriod": "30s", "minSyncPeriod": "0.2s"},
            "healthzBindAddress": "127.0.0.1:10256",
            "metricsBindAddress": "127.0.0.1:10249",
        }
    )


def start(layout: ClusterLayout, tools: Toolbox) -> ApiClient:
    """Start everything and wait until the API server says it is ready."""
    start_in_client(layout, "etcd", [str(tools.etcd / "etcd"), *etcd_arguments(layout)])
    apiserver = str(tools.kubernetes / "kube-apiserver")
    record = start_in_client(layout, "kube-apiserver", [apiserver, *apiserver_arguments(layout)])
    client = ApiClient.from_layout(layout)
    wait_ready(layout, client, record)
    manager = str(tools.kubernetes / "kube-controller-manager")
    start_in_client(layout, "kube-controller-manager", [manager, *controller_manager_arguments(layout)])
    scheduler = str(tools.kubernetes / "kube-scheduler")
    start_in_client(layout, "kube-scheduler", [scheduler, *scheduler_arguments(layout)])
    return client


def start_client_proxy(layout: ClusterLayout, tools: Toolbox) -> None:
    """kube-proxy of the client namespace, in a mount namespace with a private /run for its lock file."""
    config = layout.state / "client-proxy.yaml"
    config.write_text(proxy_configuration(layout, CLIENT_NODE_NAME))
    script = 'mount -t tmpfs tmpfs /run && exec "$@"'
    proxy = [str(tools.kubernetes / "kube-proxy"), f"--config={config}"]
    argv = isolated("/bin/sh", "-c", script, "sh", *proxy, keep=[layout.cache])
    start_in_client(layout, "client-proxy", argv)


def wait_ready(layout: ClusterLayout, client: ApiClient, record: ProcessRecord) -> None:
    """Poll /readyz; an API server that died is an error at once, with the end of its log."""
    deadline = time.monotonic() + timeout_of("control plane ready")
    problem = "no answer"
    while time.monotonic() < deadline:
        if not record.alive():
            log = (layout.logs / "kube-apiserver.log").read_text(errors="replace")
            raise HarnessError(f"kube-apiserver ended: {tail(log)}")
        try:
            client.get_text("/readyz")
        except (ApiError, OSError) as exc:
            problem = str(exc)
            time.sleep(0.2)
        else:
            return
    raise HarnessError(f"the API server is not ready: {problem}")
