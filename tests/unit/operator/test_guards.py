"""Guards: the generated schema node by node, the chart's permissions, the rule that pure code stays pure, the examples."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mogile_operator import kube
from mogile_operator.api import crdgen
from mogile_operator.api.v1alpha1 import Domain, FileClass, StorageCluster
from mogile_operator.settings import OperatorSettings

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = ROOT / "operator" / "mogile_operator"
CHART = ROOT / "deploy" / "helm" / "mogile-operator"
Obj = dict[str, Any]
FORBIDDEN = {
    "$ref",
    "$defs",
    "anyOf",
    "oneOf",
    "allOf",
    "const",
    "title",
    "nullable",
    "exclusiveMinimum",
    "exclusiveMaximum",
}


def nodes(schema: Obj, where: str) -> Iterator[tuple[str, Obj]]:
    yield where, schema
    for name, child in schema.get("properties", {}).items():
        yield from nodes(child, f"{where}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{where}[]")


def every_node() -> Iterator[tuple[str, Obj]]:
    for plural, crd in crdgen.all_crds().items():
        yield from nodes(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], plural)


def test_every_node_of_every_schema_is_structural_and_explained() -> None:
    count = 0
    for where, node in every_node():
        count += 1
        assert "type" in node or node.get("x-kubernetes-int-or-string"), where
        assert not FORBIDDEN & set(node), where
        assert node.get("default", 0) is not None, where
        if node.get("type") == "array":
            assert "items" in node, where
            assert "maxItems" in node, where
        implicit = where.endswith((".metadata", "[]"))
        assert implicit or node.get("description"), where
    assert count > 150


def test_every_rule_names_its_field() -> None:
    for where, node in every_node():
        for rule in node.get("x-kubernetes-validations", ()):
            fields = re.findall(r"[a-zA-Z]+", where)
            known = {*fields, *node.get("properties", {}), "metadata", "spec"}
            assert any(word in known for word in re.findall(r"[a-zA-Z]+", rule["message"])), (where, rule["message"])


def test_crds_are_small_enough_for_client_side_apply() -> None:
    for plural, crd in crdgen.all_crds().items():
        text = crdgen.dump(crd)
        assert len(text) < 200_000, plural
        assert "&id" not in text, plural


@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.yaml")), ids=lambda path: path.name)
def test_examples_use_only_fields_that_exist(example: Path) -> None:
    models: dict[str, Any] = {"StorageCluster": StorageCluster, "Domain": Domain, "Class": FileClass}
    for document in yaml.safe_load_all(example.read_text()):
        if document is None or document["kind"] not in models:
            continue
        parsed = models[document["kind"]].model_validate(document)
        _same(document["spec"], parsed.spec.model_dump(by_alias=True, mode="json"), example.name)


def _same(written: Any, read: Any, where: str) -> None:
    if isinstance(written, dict):
        for key, value in written.items():
            assert key in read, f"{where}.{key} is not a field"
            _same(value, read[key], f"{where}.{key}")
    elif isinstance(written, list):
        for index, (one, other) in enumerate(zip(written, read, strict=True)):
            _same(one, other, f"{where}[{index}]")
    else:
        assert written == read, where


def chart_rules(name: str) -> dict[tuple[str, str], tuple[str, ...]]:
    text = (CHART / "templates" / "_rules.tpl").read_text()
    match = re.search(rf'define "mogile-operator.rules.{name}" -\}}\}}\n(.*?)\{{\{{- end', text, re.DOTALL)
    assert match, name
    return {(r["apiGroups"][0], r["resources"][0]): tuple(r["verbs"]) for r in yaml.safe_load(match[1])}


@pytest.mark.parametrize(
    ("name", "table"), [("namespaced", kube.RULES), ("cluster", kube.CLUSTER_RULES), ("own", kube.OWN_RULES)]
)
def test_the_chart_grants_exactly_what_the_operator_uses(name: str, table: Any) -> None:
    assert chart_rules(name) == dict(table)


def test_every_kind_has_a_rule_and_every_rule_a_kind() -> None:
    known = {(kind.group, kind.plural) for kind in kube.KINDS.values()}
    tables = [*kube.RULES, *kube.CLUSTER_RULES, *kube.OWN_RULES]
    assert {(group, resource.partition("/")[0]) for group, resource in tables} == known


def test_settings_in_the_chart_exist() -> None:
    names = set(re.findall(r"MOGILE_([A-Z_]+)", (CHART / "templates" / "deployment.yaml").read_text()))
    assert names
    assert {name.lower() for name in names} <= set(OperatorSettings.__dataclass_fields__)


def test_the_chart_renders_no_custom_resource() -> None:
    for template in (CHART / "templates").rglob("*.yaml"):
        assert not re.search(r"^kind: (StorageCluster|Domain|Class)$", template.read_text(), re.MULTILINE), (
            template.name
        )


IMPURE = {
    "asyncio",
    "aiohttp",
    "kubernetes",
    "kopf",
    "os",
    "random",
    "time",
    "secrets",
    "socket",
    "subprocess",
    "logging",
}
PURE = [PACKAGE / name for name in ("naming.py", "labels.py", "conditions.py")]
PURE += sorted(
    [*(PACKAGE / "plan").rglob("*.py"), *(PACKAGE / "specs").rglob("*.py"), *(PACKAGE / "api").rglob("*.py")]
)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_pure_code_imports_no_io_no_clock_no_randomness(path: Path) -> None:
    assert not imports(path) & IMPURE
    text = path.read_text()
    assert "datetime.now" not in text
    assert "uuid4" not in text


def test_only_their_modules_import_kubernetes_and_kopf() -> None:
    for path in PACKAGE.rglob("*.py"):
        if path.name != "kube.py":
            assert "kubernetes" not in imports(path), path.name
        if path.name not in {"handlers.py", "main.py"}:
            assert "kopf" not in imports(path), path.name


def test_nothing_importable_lies_beside_the_package() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists()
    assert not list((ROOT / "operator").glob("*.py"))
