"""``python -m harness``: bring the test cluster up and down, build images, look for leftovers, run the suite."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from harness import cluster, images, kind, leftovers, preflight
from harness.controllers import run_controllers
from harness.errors import HarnessError
from harness.layout import DEFAULT_NAME, REPOSITORY, ClusterLayout, cluster_layout
from harness.proc import load_records
from harness.suite import run_suite, use_kind
from harness.tools import TOOLS_BY_NAME, build, build_all

EXIT_FAILED = 1
EXIT_USAGE = 2


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="harness", description=__doc__)
    top.add_argument("--name", default=DEFAULT_NAME, help="cluster name, prefix of everything it makes (%(default)s)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="build what is missing and start the cluster; load changed images when it runs")
    up.add_argument("--bare", action="store_true", help="without the product's images")
    commands.add_parser("down", help="remove the cluster and everything it made")
    commands.add_parser("images", help="build all images")
    tools = commands.add_parser("tools", help="build the Go programs")
    tools.add_argument("tool", nargs="*", help=f"only these of {', '.join(TOOLS_BY_NAME)}")
    commands.add_parser("status", help="what runs; exit 1 when the cluster is not whole")
    commands.add_parser("leftovers", help="list what of the cluster is on the machine; exit 1 when anything is")
    commands.add_parser("controllers", help="(internal) volumes and network policies of a running cluster")
    for name, text in (
        ("kubectl", "run the cluster's kubectl, from inside its network"),
        ("helm", "run helm against the cluster, from inside its network"),
        ("exec", "run any program inside the cluster's network"),
        ("e2e", "bring the cluster up if needed and run the suite on it; arguments go to pytest"),
    ):
        commands.add_parser(name, help=text, add_help=False)
    return top


PASSING_ON = ("kubectl", "helm", "exec", "e2e")


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Our own arguments, and those that go on to another program untouched (argparse would claim its options)."""
    for index, word in enumerate(argv):
        if word in PASSING_ON:
            return list(argv[: index + 1]), list(argv[index + 1 :])
    return list(argv), []


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; a problem is one line on stderr and exit 1."""
    own, arguments = split(sys.argv[1:] if argv is None else argv)
    options = parser().parse_args(own)
    options.arguments = arguments
    try:
        return run_command(options, cluster_layout(options.name))
    except (HarnessError, OSError) as exc:
        print(f"harness: {exc}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130


def build_tools(names: Sequence[str]) -> None:
    """Build these Go programs, or all of them; prints where they are."""
    if unknown := set(names) - set(TOOLS_BY_NAME):
        raise HarnessError(f"tool {min(unknown)} is not known: choose of {', '.join(TOOLS_BY_NAME)}")
    for name in names or TOOLS_BY_NAME:
        print(build(TOOLS_BY_NAME[name]))


def run_command(options: argparse.Namespace, layout: ClusterLayout) -> int:
    """Dispatch; every command returns an exit code."""
    match options.command:
        case "up":
            wanted = images.INFRASTRUCTURE if options.bare else images.ALL
            if use_kind():
                print(f"kubeconfig: {kind.up()}  context: {kind.CONTEXT}")
                return 0
            cluster.up(layout, wanted)
            print(f"kubeconfig: {layout.kubeconfig}  context: {layout.context}")
            print("make cluster-shell: a shell in which kubectl, helm and curl reach it")
        case "down":
            if use_kind():
                kind.down()
                return 0
            preflight.check_machine()
            cluster.down(layout)
        case "images":
            if use_kind():
                kind.build_images(images.ALL)
                return 0
            preflight.check_machine()
            for item in images.Builder(build_all()).build(images.ALL):
                print(f"{item.image.reference}  {item.archive.stat().st_size / 1e6:.0f} MB  {item.key}")
        case "tools":
            build_tools(options.tool)
        case "status":
            return status(layout)
        case "leftovers":
            found = leftovers.find(layout)
            print("\n".join(found) or "nothing")
            return EXIT_FAILED if found else 0
        case "controllers":
            run_controllers(layout)
        case "e2e":
            return run_suite(layout, options.arguments)
        case _:
            enter(layout, options.command, options.arguments)
    return 0


def status(layout: ClusterLayout) -> int:
    """Programs with their state, then whether the whole is healthy."""
    for record in load_records(layout.pids).values():
        print(f"{record.name:24} {'running' if record.alive() else 'ENDED'} pid {record.pid}")
    whole = cluster.healthy(cluster.LocalCluster(layout, build_all()))
    print(f"cluster {layout.name}: {'ready' if whole else 'not whole'}")
    return 0 if whole else EXIT_FAILED


def enter(layout: ClusterLayout, command: str, arguments: Sequence[str]) -> None:
    """Become kubectl, helm or any program inside the client namespace; on kind, where there is none, with its kubeconfig."""
    argv = list(arguments[1:] if arguments[:1] == ["--"] else arguments)
    if command == "exec" and not argv:
        raise HarnessError("exec: name a program")
    if command != "exec":
        argv = [command, *argv]
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY / "tests" / "e2e")}
    sys.stdout.flush()
    if use_kind():
        os.execvpe(argv[0], argv, {**env, "KUBECONFIG": str(kind.kubeconfig())})
    tools = build_all()
    netns = f"/run/netns/{layout.client_netns}"
    if not os.path.exists(netns):
        raise HarnessError(f"cluster {layout.name} is not running: run `make cluster-up` first")
    env["KUBECONFIG"] = str(layout.kubeconfig)
    env["PATH"] = f"{tools.kubernetes}:{tools.helm}:{env.get('PATH', '')}:{preflight.ADMIN_PATH}"
    os.execvpe("nsenter", ["nsenter", f"--net={netns}", "--", *argv], env)
