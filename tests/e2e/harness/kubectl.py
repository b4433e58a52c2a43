"""kubectl for stories: always with an explicit kubeconfig and context, always with a time limit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.errors import HarnessError
from harness.proc import run

Json = dict[str, Any]
CALL_TIMEOUT_SECONDS = 60.0


class NotFoundError(HarnessError):
    """The API server has no such object."""


class RefusedError(HarnessError):
    """The API server or kubectl refused; the text is its answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kubectl:
    """One context, and a default namespace for calls that name none."""

    program: str
    kubeconfig: Path
    context: str
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        """The same for another namespace."""
        return replace(self, namespace=namespace)

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = CALL_TIMEOUT_SECONDS) -> str:
        """Run kubectl and return what it wrote; a refusal is an exception with its text."""
        own = ["--kubeconfig", str(self.kubeconfig), "--context", self.context, "--namespace", self.namespace]
        done = run(self.program, *own, *arguments, stdin=stdin, timeout=timeout, check=False)
        if done.returncode == 0:
            return done.stdout
        text = (done.stderr or done.stdout).strip()
        if "(NotFound)" in text:
            raise NotFoundError(text)
        raise RefusedError(text)

    def get(self, kind: str, name: str) -> Json:
        """One object."""
        value: Json = json.loads(self("get", kind, name, "-o", "json"))
        return value

    def list(self, kind: str, selector: str = "", *, all_namespaces: bool = False) -> Sequence[Json]:
        """Objects of a kind, by label selector."""
        arguments = ["get", kind, "-o", "json"]
        arguments += ["-l", selector] if selector else []
        arguments += ["--all-namespaces"] if all_namespaces else []
        items: Sequence[Json] = json.loads(self(*arguments))["items"]
        return items

    def exists(self, kind: str, name: str) -> bool:
        return bool(self("get", kind, name, "--ignore-not-found", "-o", "name").strip())

    def apply(self, *documents: Mapping[str, Any] | str | Path, dry_run: bool = False) -> str:
        """Server-side apply of objects, YAML text or files."""
        extra = ["--dry-run=server"] if dry_run else []
        out = ""
        for document in documents:
            source = document.read_text() if isinstance(document, Path) else document
            text = source if isinstance(source, str) else json.dumps(source)
            out += self("apply", "--server-side", "--force-conflicts", "-f", "-", *extra, stdin=text)
        return out

    def patch(self, kind: str, name: str, change: Mapping[str, Any], *, subresource: str = "") -> None:
        """Merge patch."""
        extra = ["--subresource", subresource] if subresource else []
        self("patch", kind, name, "--type=merge", "-p", json.dumps(change), *extra)

    def delete(self, kind: str, *names: str, wait: bool = False, timeout: float = CALL_TIMEOUT_SECONDS) -> None:
        """Delete objects; those that are gone already are fine."""
        arguments = ["delete", kind, *names, "--ignore-not-found", f"--wait={str(wait).lower()}"]
        self(*arguments, f"--timeout={timeout:.0f}s", timeout=timeout + 10)

    def exec(
        self,
        pod: str,
        *command: str,
        container: str = "",
        stdin: str | None = None,
        timeout: float = CALL_TIMEOUT_SECONDS,
    ) -> str:
        """Run a program in a pod."""
        where = ["-c", container] if container else []
        return self(
            "exec", *(["-i"] if stdin is not None else []), pod, *where, "--", *command, stdin=stdin, timeout=timeout
        )

    def logs(self, pod: str, *, container: str = "", previous: bool = False, lines: int = 2000) -> str:
        which = ["-c", container] if container else ["--all-containers"]
        return self("logs", pod, *which, f"--tail={lines}", *(["--previous"] if previous else []))
