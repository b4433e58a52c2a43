"""`mogile.storage/v1alpha1`: the models are the single source of the CRDs, their defaults and their reference page.

Reading is tolerant (unknown fields are ignored: a stored object may be newer than this operator); strictness belongs to the API
server's structural schema and its CEL rules. Values are frozen: a pass of the operator works on one unchanging copy.
"""

from mogile_operator.api.v1alpha1.cluster import StorageCluster, StorageClusterSpec, StorageClusterStatus
from mogile_operator.api.v1alpha1.common import GROUP, VERSION, Condition, ObjectMeta
from mogile_operator.api.v1alpha1.domain import Domain, DomainSpec, NameStatus
from mogile_operator.api.v1alpha1.fileclass import FileClass, FileClassSpec

__all__ = [
    "GROUP",
    "VERSION",
    "Condition",
    "Domain",
    "DomainSpec",
    "FileClass",
    "FileClassSpec",
    "NameStatus",
    "ObjectMeta",
    "StorageCluster",
    "StorageClusterSpec",
    "StorageClusterStatus",
]
