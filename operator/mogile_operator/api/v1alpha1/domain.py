"""`Domain`: a namespace of keys in the tracker of one StorageCluster."""

from typing import Annotated, Any

from pydantic import Field

from mogile_operator.api.v1alpha1.common import Condition, LocalRef, Model, MogileName, ObjectMeta, map_list, rules

IMMUTABLE_NAME = (
    "has(self.name) == has(oldSelf.name) && (!has(self.name) || self.name == oldSelf.name)",
    "spec.name is immutable: files belong to the name; make a new object for another name",
)


class NameStatus(Model):
    """What is seen of a Domain or a Class."""

    observed_generation: int = 0
    """The generation of the spec that was acted on."""
    name: Annotated[str, Field(max_length=255)] = ""
    """The name in the tracker."""
    conditions: Annotated[tuple[Condition, ...], Field(max_length=16, json_schema_extra=map_list("type"))] = ()
    """Observations: Ready sums them up, Conflict says that another object has claimed the name."""


class DomainSpec(Model):
    """What is wanted."""

    model_config = Model.model_config | {"json_schema_extra": rules(IMMUTABLE_NAME)}

    cluster_ref: Annotated[
        LocalRef,
        Field(
            json_schema_extra=rules(
                (
                    "self == oldSelf",
                    "spec.clusterRef is immutable: files do not move between clusters; make a new object",
                )
            )
        ),
    ]
    """The StorageCluster, in the same namespace."""
    name: MogileName | None = None
    """Name of the domain in the tracker; unset means the object's name. Immutable."""


class Domain(Model):
    """A namespace of keys in the tracker of one StorageCluster."""

    metadata: ObjectMeta
    spec: DomainSpec
    status: NameStatus = NameStatus()

    @property
    def tracker_name(self) -> str:
        """The name in the tracker."""
        return self.spec.name or self.metadata.name


CRD: dict[str, Any] = {
    "kind": "Domain",
    "plural": "domains",
    "singular": "domain",
    "short_names": ["mogd"],
    "rules": [],
    "columns": [
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "whether the tracker has it", 0),
        ("Cluster", "string", ".spec.clusterRef.name", "the StorageCluster", 0),
        ("Name", "string", ".status.name", "name in the tracker", 0),
        ("Age", "date", ".metadata.creationTimestamp", "when the object was made", 0),
    ],
}
