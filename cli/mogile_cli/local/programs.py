"""The command lines and environments of a local cluster's processes: which program, which settings, how to see that it is ready.

Programs of other packages are started with `python -m`, never imported. Our own MOGILE_* variables are not passed on: what a process is
told here is all it is told. Storage nodes read with nginx where the system has it; the gateway is nginx with Lua where that works.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from mogile_cli.local.layout import Layout, NodeSpec
from mogile_cli.local.supervisor import ChildSpec
from mogile_core import model

STAGE_NODES = 1
STAGE_TRACKERS = 2
STAGE_GATEWAY = 3
SYSTEM_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # nginx lies there, and a user's PATH often lacks it
CHECK_SECONDS = 20.0
DOMAIN = "files"
GATEWAY_SCRIPT = Path(__file__).resolve().parents[3] / "images" / "nginx-gateway" / "mogile-gateway"
GATEWAY_TEMPORARY_PREFIX_MAX = 80  # nginx's own socket lies there, and a socket's path is short


def base_environment() -> dict[str, str]:
    """The caller's environment without our settings, and with the system's own program folders in PATH."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MOGILE_")}
    path = environment.get("PATH", os.defpath).split(os.pathsep)
    environment["PATH"] = os.pathsep.join([*path, *(p for p in SYSTEM_PATH if p not in path)])
    return environment


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Builds the child specifications of one layout."""

    layout: Layout
    run_folder: Path  # short-lived files with short paths: sockets, nginx's pid and temporary files
    environment: Mapping[str, str] = dataclasses.field(default_factory=base_environment)
    python: str = sys.executable

    @property
    def nginx(self) -> str | None:
        """The system's nginx, or None when there is none or it is not wanted."""
        if not self.layout.nginx:
            return None
        return shutil.which("nginx", path=self.environment.get("PATH"))

    def tracker(self, index: int, dsn: str, password_file: Path) -> ChildSpec:
        port, health = self.layout.tracker_ports(index)
        return self._child(
            f"tracker{index + 1}",
            STAGE_TRACKERS,
            (self.python, "-m", "mogile_tracker.main"),
            f"http://{self.layout.local_address}:{health}/readyz",
            LISTEN=f"{self.layout.listen}:{port}",
            HTTP_LISTEN=f"{self.layout.local_address}:{health}",
            DB_DSN=dsn,
            DB_PASSWORD_FILE=str(password_file),
            MONITOR_INTERVAL_SECONDS="1",
            JOB_IDLE_SECONDS="0.25",
            RETRY_BASE_SECONDS="2",
            MIN_FREE_SPACE_MB=str(self.layout.min_free_mb),
        )

    def agent(self, node: NodeSpec, cluster_id: str) -> ChildSpec:
        address = self.layout.address(node.number)
        return self._child(
            node.name,
            STAGE_NODES,
            (self.python, "-m", "mogile_storage.main", "agent"),
            f"http://{address}:{model.NODE_HEALTH_PORT}/readyz",
            **self._node_settings(node, cluster_id),
            USAGE_INTERVAL_SECONDS="2",
            DEVICE_LIMIT_MB=str(self.layout.device_limit_mb),
            RESERVE_MB=str(min(64, self.layout.min_free_mb)),
            ANONYMOUS_WRITES="safe",
        )

    def reader(self, node: NodeSpec, cluster_id: str) -> ChildSpec:
        address = self.layout.address(node.number)
        return self._child(
            f"{node.name}-nginx",
            STAGE_NODES,
            (self.python, "-m", "mogile_storage.main", "nginx"),
            f"{address}:{model.NODE_GET_PORT}",
            **self._node_settings(node, cluster_id),
            RUN_DIR=str(self.run_folder / node.name),
        )

    def gateway(self, config: Path) -> tuple[ChildSpec, str]:
        """The gateway and, in words, which one it is and why."""
        reason = self._nginx_gateway_refusal(config)
        run = str(self.run_folder / "gateway")
        argv: tuple[str, ...]
        if reason is None:
            argv = (str(GATEWAY_SCRIPT), "--config", str(config), "--run-dir", run, "--drain-seconds", "5")
        else:
            argv = (self.python, "-m", "mogile_cli.local.gateway")
        child = self._child(
            "gateway",
            STAGE_GATEWAY,
            argv,
            f"http://{self.layout.local_address}:{self.layout.gateway_health_port}/healthz",
            GATEWAY_CONFIG=str(config),
        )
        return child, "nginx with Lua" if reason is None else f"built in, since {reason}"

    def _nginx_gateway_refusal(self, config: Path) -> str | None:
        """Why nginx cannot be the gateway here, or None when it can."""
        if not GATEWAY_SCRIPT.exists():
            return "the nginx gateway is not part of this installation"
        if self.nginx is None:
            return "nginx is not installed" if self.layout.nginx else "nginx is not wanted"
        if len(str(self.run_folder)) > GATEWAY_TEMPORARY_PREFIX_MAX:
            return f"the path of {self.run_folder} is too long for nginx's socket"
        check = (str(GATEWAY_SCRIPT), "--config", str(config), "--run-dir", str(self.run_folder / "check"), "--check")
        try:
            result = subprocess.run(
                check,
                capture_output=True,
                text=True,
                check=False,
                timeout=CHECK_SECONDS,
                env=dict(self.environment),
                cwd="/",
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"its check failed ({error})"
        if result.returncode == 0:
            return None
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        return lines[-1].removeprefix("mogile-gateway: ") if lines else f"its check ended with {result.returncode}"

    def _node_settings(self, node: NodeSpec, cluster_id: str) -> dict[str, str]:
        return {
            "DOCROOT": str(self.layout.docroot(node)),
            "HTTP_ADDRESS": self.layout.address(node.number),
            "HTTP_LISTEN": f"{self.layout.address(node.number)}:{model.NODE_HEALTH_PORT}",
            "HTTP_PORT": str(model.NODE_HTTP_PORT),
            "MGMT_PORT": str(model.NODE_MGMT_PORT),
            "GET_PORT": str(model.NODE_GET_PORT),
            "CLUSTER_ID": cluster_id,
        }

    def _child(self, name: str, stage: int, argv: tuple[str, ...], probe: str, **settings: str) -> ChildSpec:
        return ChildSpec(
            name=name,
            stage=stage,
            argv=argv,
            environment={**self.environment, **{f"MOGILE_{key}": value for key, value in settings.items()}},
            log=self.layout.logs / f"{name}.log",
            probe=probe,
            restart=stage in (STAGE_TRACKERS, STAGE_GATEWAY),  # they hold no data
        )


def gateway_config(layout: Layout, cluster_id: str, token_file: Path | None) -> str:
    """`gateway.json`: everybody on this machine may read and write; others need the token to write."""
    location = {"path": f"/{DOMAIN}/", "domain": DOMAIN, "class": "", "read": "open", "write": "open"}
    if token_file is not None:
        location |= {"write": "token", "tokenFile": str(token_file)}
    value = {
        "listen": f"{layout.listen}:{layout.gateway_port}",
        "metricsListen": f"{layout.local_address}:{layout.gateway_health_port}",
        "workers": 1,
        "trackers": layout.tracker_addresses,
        "clusterId": cluster_id,
        "locations": [location],
    }
    return json.dumps(value, indent=2) + "\n"
