"""What the informers are told of a kind: where it is served and how an object becomes a record.

What the fields of a kind mean doesn't belong here: ``gather.project`` declares that.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import msgspec

from telemetryd.model import Delta, InformerStatus, R, R_co, Unreadable


class ObjectMeta(msgspec.Struct, gc=False):
    """The part of ``metadata`` that every kind needs (meta/v1 ObjectMeta)."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resourceVersion: str | None = None  # noqa: N815 - the field's name in JSON


class KubeObject(msgspec.Struct, gc=False):
    """Base of the typed structs: each kind declares the further fields that are read of it.

    Attributes:
        kind: Checked against the resource's, so that a Table never passes for an object; lists of
            core objects leave it out.
    """

    kind: str | None = None
    metadata: ObjectMeta | None = None


T = TypeVar("T", bound=KubeObject)


@dataclass(frozen=True, slots=True)
class Resource(Generic[T, R]):
    """One kind as an informer watches it.

    Attributes:
        group: API group, empty for the core group.
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


class Reader(Protocol[R_co]):
    """A store as everyone but its informer sees it."""

    @property
    def synced(self) -> bool:
        """The first list is fully processed, or the resource is confirmed absent; never reverts."""

    @property
    def unreadable(self) -> int:
        """Objects held that could not be read, those without a key included."""

    def get(self, key: str) -> R_co | Unreadable | None:
        """The record under the key, None where there is none."""

    def keys(self) -> list[str]:
        """All keys, sorted."""

    def __len__(self) -> int:
        """Objects held."""

    def subscribe(self, handler: Callable[[Delta[R_co]], None]) -> Callable[[], None]:
        """Call the handler with each delta from now on, after an add for each object held.

        Returns:
            Ends that.
        """

    def on_change(self, handler: Callable[[], None]) -> Callable[[], None]:
        """Call the handler after each batch of deltas and whenever ``synced`` turns true.

        Returns:
            Ends that.
        """

    def status(self) -> InformerStatus:
        """What the informer shows of itself."""
