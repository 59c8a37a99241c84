"""What an informer knows of a kind: where it is served, and how an object becomes a record.

The kinds themselves are declared in ``gather``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from telemetryd.model import R


class ObjectMeta(msgspec.Struct, gc=False):
    """The part of ``metadata`` that every kind needs (meta/v1 ObjectMeta)."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resourceVersion: str | None = None  # noqa: N815 - the field's name in JSON


class KubeObject(msgspec.Struct, gc=False):
    """Base of the typed structs: each kind declares the other fields that are read.

    Attributes:
        kind: Checked against the resource's, so that a Table isn't taken for an object. Lists of
            core objects leave it out.
    """

    kind: str | None = None
    metadata: ObjectMeta | None = None


T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T, R]):
    """One kind as an informer watches it.

    Attributes:
        object_type: Struct of exactly the fields that are read.
        project: Object and its key to record; pure. The key is ``namespace/name`` or ``name``.
        name: Only the object of this name, by field selector; None for all.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    object_type: type[T]
    project: Callable[[str, T], R]
    name: str | None = None

    @property
    def id(self) -> str:
        """``plural.group``, or the plural alone for the core group; the label in metrics."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_path(self) -> str:
        """Path of the group version: ``/apis/GROUP/VERSION``, ``/api/v1`` for the core group."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    @property
    def path(self) -> str:
        """Path of the collection over all namespaces."""
        return f"{self.group_path}/{self.plural}"
