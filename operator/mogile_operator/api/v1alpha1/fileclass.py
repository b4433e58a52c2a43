"""`Class`: how many copies the files of a domain get, and where. (`FileClass` in Python, where `class` is a keyword.)"""

from typing import Annotated, Any, Literal

from pydantic import Field

from mogile_operator.api.v1alpha1.common import LocalRef, Model, MogileName, ObjectMeta, rules
from mogile_operator.api.v1alpha1.domain import IMMUTABLE_NAME, NameStatus

NEEDS_WRITE_COPIES = (
    "!self.degradedWrites || has(self.writeCopies)",
    "spec.degradedWrites needs spec.writeCopies: say how many machines an upload is on when there are enough",
)


class FileClassSpec(Model):
    """What is wanted."""

    model_config = Model.model_config | {"json_schema_extra": rules(IMMUTABLE_NAME, NEEDS_WRITE_COPIES)}

    domain_ref: Annotated[
        LocalRef,
        Field(
            json_schema_extra=rules(
                ("self == oldSelf", "spec.domainRef is immutable: a class belongs to its domain; make a new object")
            )
        ),
    ]
    """The Domain object, in the same namespace."""
    name: MogileName | None = None
    """Name of the class in the tracker; unset means the object's name; default changes the class of files without one. Immutable."""
    mindevcount: Annotated[
        int,
        Field(
            json_schema_extra=rules(
                ("self >= 1", "spec.mindevcount must be at least 1: it is the number of copies of each file"),
                ("self <= 64", "spec.mindevcount must be at most 64"),
            )
        ),
    ]
    """On how many devices each file lies, on different hosts and, where possible, in different zones."""
    replpolicy: Annotated[str, Field(max_length=255, pattern=r"^[A-Za-z_]+\(.*\)$")] | None = None
    """MogileFS replication policy, for example MultipleHosts(); unset means the tracker's default."""
    write_copies: (
        Annotated[
            int,
            Field(
                json_schema_extra=rules(
                    ("self >= 1", "spec.writeCopies must be at least 1: it is the number of machines an upload is on"),
                    ("self <= 16", "spec.writeCopies must be at most 16"),
                )
            ),
        ]
        | None
    ) = None
    """On how many machines an upload is before it is acknowledged; unset leaves what the tracker has, 2 in new clusters."""
    degraded_writes: bool = False
    """With writeCopies: acknowledge uploads on fewer machines when there are no more; otherwise such an upload is an error."""
    hashtype: Literal["NONE", "MD5", "SHA-1"] = "NONE"
    """Checksum kept for each file and verified when it is copied."""


class FileClass(Model):
    """How many copies the files of a domain get, and where."""

    metadata: ObjectMeta
    spec: FileClassSpec
    status: NameStatus = NameStatus()

    @property
    def tracker_name(self) -> str:
        """The name in the tracker."""
        return self.spec.name or self.metadata.name


CRD: dict[str, Any] = {
    "kind": "Class",
    "plural": "classes",
    "singular": "class",
    "short_names": ["mogcl"],
    "rules": [],
    "columns": [
        ("Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "whether the tracker has it", 0),
        ("Domain", "string", ".spec.domainRef.name", "the Domain object", 0),
        ("Name", "string", ".status.name", "name in the tracker", 0),
        ("Copies", "integer", ".spec.mindevcount", "copies of each file", 0),
        ("Age", "date", ".metadata.creationTimestamp", "when the object was made", 0),
    ],
}
