"""Parts that the three kinds share: the model base, metadata, conditions, quantities, scheduling fragments.

A rule is attached where it is evaluated: `rules(...)` on a model or a field becomes `x-kubernetes-validations`. Every list, map
and string has a bound, both because everything here is bounded and because the API server prices CEL rules by the worst case.
"""

from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP: Final = "mogile.storage"
VERSION: Final = "v1alpha1"

QUANTITY_PATTERN: Final = r"^[1-9][0-9]{0,14}(Mi|Gi|Ti|Pi)$"
DURATION_PATTERN: Final = r"^([0-9]{1,6}(s|m|h))+$"
NAME_PATTERN: Final = r"^[A-Za-z0-9._:-]+$"
LABEL_NAME_PATTERN: Final = r"^[a-z]([-a-z0-9]*[a-z0-9])?$"

Quantity = Annotated[str, Field(pattern=QUANTITY_PATTERN, max_length=20)]
Duration = Annotated[str, Field(pattern=DURATION_PATTERN, max_length=20)]
MogileName = Annotated[str, Field(pattern=NAME_PATTERN, min_length=1, max_length=255)]
ObjectName = Annotated[str, Field(min_length=1, max_length=253)]
ShortText = Annotated[str, Field(max_length=512)]


class Rule(BaseModel):
    """One CEL rule; the message names the field and the fix."""

    model_config = ConfigDict(frozen=True)
    rule: str
    message: str
    optional_old_self: bool = False


def rules(*pairs: tuple[str, str]) -> dict[str, Any]:
    """`json_schema_extra` carrying CEL rules given as (rule, message)."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def map_list(*keys: str) -> dict[str, Any]:
    """`json_schema_extra` of a list whose items are told apart by their keys, never by position."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


class Model(BaseModel):
    """Base of everything that is read from or written to the API server."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        alias_generator=to_camel,
        populate_by_name=True,
        use_attribute_docstrings=True,
    )


class ObjectMeta(Model):
    """The part of an object's metadata that the operator looks at."""

    name: str
    namespace: str = ""
    uid: str = ""
    generation: int = 0
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    finalizers: tuple[str, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(Model):
    """One observation about the object, in the form all Kubernetes tools understand."""

    type: Annotated[str, Field(max_length=316)]
    """Name of the condition, for example Ready."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds: True, False, or Unknown."""
    reason: Annotated[str, Field(min_length=1, max_length=1024)]
    """One CamelCase word for programs."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """A sentence for people."""
    last_transition_time: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    """When the status last changed."""
    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The generation of the spec this was observed for."""


class Resources(Model):
    """Requests and limits of a container, as in a pod."""

    requests: Annotated[dict[str, int | str], Field(max_length=8)] = {}
    """What the scheduler reserves, for example {cpu: 100m, memory: 128Mi}."""
    limits: Annotated[dict[str, int | str], Field(max_length=8)] = {}
    """What the container may not exceed. A CPU limit is rarely a good idea for storage."""


class Toleration(Model):
    """Lets pods onto machines that carry a matching taint, as in a pod."""

    key: Annotated[str, Field(max_length=316)] = ""
    """Taint key; empty with operator Exists matches every taint."""
    operator: Literal["Exists", "Equal"] = "Equal"
    """Exists ignores the value, Equal compares it."""
    value: Annotated[str, Field(max_length=63)] = ""
    """Taint value for Equal."""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    """Effect to tolerate; empty means all."""
    toleration_seconds: Annotated[int, Field(ge=0)] | None = None
    """How long a NoExecute taint is borne; unset means for ever."""


class SecretKeyRef(Model):
    """One key of a Secret in the same namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[-._a-zA-Z0-9]+$")]
    """Key within it."""


class LocalRef(Model):
    """Another object of the same namespace."""

    name: ObjectName
    """Its name."""
