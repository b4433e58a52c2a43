"""Typed models → structural schema → CRD.

`schema_of(model)` turns pydantic's JSON Schema into what the API server accepts: references inlined, titles dropped, `T | None`
an optional field, `int | str` an int-or-string, constants one-value enums, nested defaults `{}` (so that the API server fills
them in from the leaves), never `default: null`. Anything it does not know makes it fail loudly: a CRD that silently lost a rule
is worse than none. It must not read files or know about charts; `scripts/generate` writes what it returns.
"""

from typing import Any

import yaml
from pydantic import BaseModel

from mogile_operator.api.v1alpha1 import cluster, domain, fileclass
from mogile_operator.api.v1alpha1.common import GROUP, VERSION

KEEP = {
    "type",
    "description",
    "enum",
    "pattern",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
    "required",
}
DROPPED = {"title", "additionalProperties", "$defs", "default", "properties", "items", "anyOf", "const", "$ref"}
KINDS: tuple[tuple[dict[str, Any], type[BaseModel]], ...] = (
    (cluster.CRD, cluster.StorageCluster),
    (domain.CRD, domain.Domain),
    (fileclass.CRD, fileclass.FileClass),
)


class SchemaError(Exception):
    """A model uses something that has no structural schema."""


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of one model."""
    raw = model.model_json_schema(by_alias=True)
    return _convert(raw, raw.get("$defs", {}), model.__name__)


def _convert(node: dict[str, Any], defs: dict[str, Any], where: str) -> dict[str, Any]:
    """One node, with its own keywords laid over those of what it refers to."""
    node = _resolved(node, defs, where)
    unknown = {k for k in node if k not in KEEP | DROPPED and not k.startswith("x-kubernetes-")}
    if unknown:
        raise SchemaError(f"{where}: no structural form for {sorted(unknown)}")
    out: dict[str, Any] = {k: v for k, v in node.items() if k in KEEP or k.startswith("x-kubernetes-")}
    if "description" in out:
        out["description"] = " ".join(out["description"].split())
    if "const" in node:
        out["enum"] = [node["const"]]
    if "x-kubernetes-int-or-string" in out:
        return out
    kind = out.get("type")
    if kind == "object":
        _object(node, defs, where, out)
    elif kind == "array":
        if not isinstance(node.get("items"), dict):
            raise SchemaError(f"{where}: a list needs one item type")
        out["items"] = _convert(node["items"], defs, f"{where}[]")
    elif kind == "integer":
        out["format"] = "int64"
    elif kind not in {"string", "boolean"}:
        raise SchemaError(f"{where}: no structural form for type {kind!r}")
    return out


def _object(node: dict[str, Any], defs: dict[str, Any], where: str, out: dict[str, Any]) -> None:
    if "properties" not in node:
        extra = node.get("additionalProperties")
        if not isinstance(extra, dict):
            raise SchemaError(f"{where}: an object needs properties or a value type")
        out["additionalProperties"] = _convert(extra, defs, f"{where}{{}}")
        return
    required = set(node.get("required", ()))
    properties: dict[str, Any] = {}
    for name, child in node["properties"].items():
        converted = _convert(child, defs, f"{where}.{name}")
        default = _default(child, converted)
        if default is not None and name not in required:
            converted["default"] = default
        properties[name] = converted
    out["properties"] = properties


def _default(child: dict[str, Any], converted: dict[str, Any]) -> Any:
    """The default to emit: nothing for null and empty containers, `{}` for nested objects, else the value itself."""
    default = child.get("default")
    if default is None:
        return None
    if converted.get("type") == "object" and "x-kubernetes-validations" in converted:
        # The API server judges a default by the rules before it fills in the leaves: `{}` would lack what they look at.
        return {key: value for key, value in default.items() if value is not None}
    if converted.get("type") == "object":
        return {} if "properties" in converted else None
    if converted.get("type") == "array":
        return None
    return default


def _resolved(node: dict[str, Any], defs: dict[str, Any], where: str) -> dict[str, Any]:
    """Inlines `$ref` and the two unions that have a structural form."""
    if "$ref" in node:
        target = defs[node["$ref"].removeprefix("#/$defs/")]
        merged = {**_resolved(target, defs, where), **{k: v for k, v in node.items() if k != "$ref"}}
        rules = [*target.get("x-kubernetes-validations", []), *node.get("x-kubernetes-validations", [])]
        return {**merged, "x-kubernetes-validations": rules} if rules else merged
    if "anyOf" in node:
        rest = {k: v for k, v in node.items() if k != "anyOf"}
        options = [option for option in node["anyOf"] if option != {"type": "null"}]
        if len(options) == 1:
            return {**_resolved(options[0], defs, where), **rest}
        if sorted(option.get("type", "") for option in options) == ["integer", "string"]:
            return {**rest, "x-kubernetes-int-or-string": True}
        raise SchemaError(f"{where}: no structural form for a union of {options}")
    return node


def _part(model: type[BaseModel], name: str) -> type[BaseModel]:
    part = model.model_fields[name].annotation
    if not (isinstance(part, type) and issubclass(part, BaseModel)):
        raise SchemaError(f"{model.__name__}.{name}: must be a model")
    return part


def build_crd(meta: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """The CustomResourceDefinition of one kind."""
    root: dict[str, Any] = {
        "type": "object",
        "description": " ".join((model.__doc__ or "").split()),
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": "Version of this representation of the object."},
            "kind": {"type": "string", "description": "What kind of object this is."},
            # No description: the API server allows none here.
            "metadata": {"type": "object"},
            "spec": schema_of(_part(model, "spec")),
            "status": schema_of(_part(model, "status")),
        },
    }
    if meta["rules"]:
        root["x-kubernetes-validations"] = [{"rule": rule, "message": message} for rule, message in meta["rules"]]
    columns = [
        {"name": name, "type": kind, "jsonPath": path, "description": text, **({"priority": prio} if prio else {})}
        for name, kind, path, text, prio in meta["columns"]
    ]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{meta['plural']}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": meta["kind"],
                "listKind": f"{meta['kind']}List",
                "plural": meta["plural"],
                "singular": meta["singular"],
                "shortNames": meta["short_names"],
                "categories": ["mogile"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "additionalPrinterColumns": columns,
                    "schema": {"openAPIV3Schema": root},
                    "subresources": {"status": {}},
                }
            ],
        },
    }


def all_crds() -> dict[str, dict[str, Any]]:
    """Every CRD by its plural name."""
    return {meta["plural"]: build_crd(meta, model) for meta, model in KINDS}


class _Plain(yaml.SafeDumper):
    """YAML without anchors: two fields of one shape are two texts."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(document: Any) -> str:
    """YAML as it is committed."""
    return yaml.dump(document, Dumper=_Plain, sort_keys=False, width=140, allow_unicode=True)


def reference(crds: dict[str, dict[str, Any]]) -> str:
    """The reference page of all kinds, from the same schema."""
    lines = ["# Resources", "", "Made by `make generate` from `mogile_operator/api`; do not edit.", ""]
    for crd in crds.values():
        names = crd["spec"]["names"]
        version = crd["spec"]["versions"][0]
        schema = version["schema"]["openAPIV3Schema"]
        lines += [f"## {names['kind']} (`{names['shortNames'][0]}`)", "", schema["description"], ""]
        for part in ("spec", "status"):
            lines += [f"### {names['kind']}.{part}", "", "| field | type | default | meaning |", "|---|---|---|---|"]
            lines += _rows(schema["properties"][part], "")
            lines.append("")
        rules = list(_rules(schema, ""))
        if rules:
            lines += (
                ["Refused by the API server:", ""]
                + [f"- `{where or 'object'}`: {message}" for where, message in rules]
                + [""]
            )
    return "\n".join(lines)


def _rows(node: dict[str, Any], prefix: str) -> list[str]:
    rows: list[str] = []
    required = set(node.get("required", ()))
    for name, child in node.get("properties", {}).items():
        path = f"{prefix}{name}"
        inner = child["items"] if child.get("type") == "array" else child
        suffix = "[]" if child.get("type") == "array" else ""
        kind = "int or string" if inner.get("x-kubernetes-int-or-string") else inner.get("type", "")
        if "enum" in inner:
            kind = " \\| ".join(f"`{value}`" if value else "``(empty)" for value in inner["enum"])
        default = "required" if name in required else _shown(child.get("default"))
        rows.append(
            f"| `{path}{suffix}` | {kind}{suffix} | {default} | {child.get('description', '').replace('|', chr(92) + '|')} |"
        )
        rows += _rows(inner, f"{path}{suffix}.")
    return rows


def _shown(default: Any) -> str:
    if default is None or default == {}:
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`" if default != "" else '`""`'


def _rules(node: dict[str, Any], path: str) -> Any:
    for rule in node.get("x-kubernetes-validations", ()):
        yield path, rule["message"]
    for name, child in node.get("properties", {}).items():
        yield from _rules(child, f"{path}.{name}".lstrip("."))
    if isinstance(node.get("items"), dict):
        yield from _rules(node["items"], f"{path}[]")
