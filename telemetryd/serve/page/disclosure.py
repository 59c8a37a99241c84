"""What is collected and what is not, for the status page and ``/status.json``.

Each exporter declares its fields next to the code that renders them; the types that objects are
decoded into declare what is read.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Final

from telemetryd.config import IdentityConfig, PrivacyConfig
from telemetryd.gather.consumer import RESOURCE_ID
from telemetryd.gather.reads import KEYS_READ, READ_OF
from telemetryd.gather.requests import SECRET_REQUESTS
from telemetryd.model import Disclosure, ExporterStatus, Field, InformerStatus, SourceKind


class FieldState(StrEnum):
    """Whether a field is sent."""

    SENT = "sent"
    EMPTY = "empty"
    LEFT_OUT = "left_out"


@dataclass(frozen=True, slots=True)
class Situation:
    """What decides about the fields, besides the exporter.

    Attributes:
        source: None while it isn't known.
        omitted: The ``[privacy]`` keys that omit.
        identity: The ``[identity]`` keys that are set.
    """

    source: SourceKind | None = None
    omitted: frozenset[str] = frozenset()
    identity: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ListedField:
    """One field as it is shown; ``source`` says where its value is from, or why it has none."""

    key: str
    what: str
    state: FieldState
    source: str


def situation_of(
    source: SourceKind | None, privacy: PrivacyConfig, identity: IdentityConfig
) -> Situation:
    """The situation by the source and the configuration."""
    return Situation(
        source,
        frozenset(each.name for each in fields(privacy) if getattr(privacy, each.name) == "omit"),
        frozenset(each.name for each in fields(identity) if getattr(identity, each.name)),
    )


def list_fields(disclosure: Disclosure, situation: Situation) -> tuple[ListedField, ...]:
    """All fields of an exporter, sent or not."""
    return tuple(_listed(field, situation) for field in disclosure.fields)


def _listed(field: Field, situation: Situation) -> ListedField:
    plain = situation.source is SourceKind.KUBERNETES
    source = field.kubernetes if plain else field.rancher
    nothing = FieldState.EMPTY if field.keeps_key else FieldState.LEFT_OUT
    if field.privacy in situation.omitted:
        return ListedField(field.key, field.what, nothing, f'{field.privacy} = "omit" in [privacy]')
    if field.identity in situation.identity:
        source = f"{field.identity} in [identity]"
    if source:
        return ListedField(field.key, field.what, FieldState.SENT, source)
    return ListedField(field.key, field.what, nothing, "nothing to send without a Rancher")


def render_fields(listed: Iterable[ListedField]) -> list[dict[str, str]]:
    """The fields for ``/status.json``."""
    return [
        {"key": each.key, "what": each.what, "state": str(each.state), "from": each.source}
        for each in listed
    ]


def render_plugin(disclosure: Disclosure) -> dict[str, Any]:
    """The plug-in of an exporter for ``/status.json``; empty for a built-in exporter."""
    if not disclosure.plugin:
        return {}
    name, _, version = disclosure.plugin.partition(" ")
    given = [{"key": key, "what": what} for key, what in disclosure.given]
    return {"plugin": {"distribution": name, "version": version, "given": given}}


@dataclass(frozen=True, slots=True)
class Group:
    """Exporters that send the same fields."""

    names: tuple[str, ...]
    disclosure: Disclosure
    fields: tuple[ListedField, ...]


def group_exporters(exporters: Iterable[ExporterStatus], situation: Situation) -> tuple[Group, ...]:
    """Exporters by the fields they send, in their order."""
    names: dict[Disclosure, list[str]] = {}
    for exporter in exporters:
        names.setdefault(exporter.disclosure, []).append(exporter.name)
    return tuple(
        Group(tuple(each), disclosure, list_fields(disclosure, situation))
        for disclosure, each in names.items()
    )


def list_reads(
    informers: Iterable[InformerStatus],
    exporters: Iterable[ExporterStatus],
    situation: Situation,
    *,
    elects: bool = False,
) -> Iterator[tuple[str, str]]:
    """What is read now, sent or not: places and keys."""
    followed = [informer.resource for informer in informers]
    from_rancher = bool(followed) and situation.source is SourceKind.RANCHER
    for resource in (*followed, *((RESOURCE_ID,) if from_rancher else ())):
        if keys := KEYS_READ.get(resource):
            scope = READ_OF.get(resource)
            yield resource, ", ".join(keys) + (f" ({scope})" if scope else "")
    if from_rancher:
        yield "Rancher's /rancherversion", "GitCommit, Version; the setting cacerts verifies it"
    if followed and situation.source is SourceKind.KUBERNETES:
        yield "API server's /version", "gitVersion, gitCommit"
    if SECRET_REQUESTS.id in followed:
        yield "Namespaces that SecretRequests name", "metadata.labels.field.cattle.io/projectId"
    if any(exporter.type == "secret" for exporter in exporters):
        yield "The Secret that an exporter writes", "to know whether to write"
    if elects:
        yield "The Lease", "who leads"


NEVER_READ: Final = (
    "Other labels and annotations of objects",
    "IP addresses and host names of nodes",
    "Pods, workloads, images, volumes and events",
    "ConfigMaps, and any Secret but the one that an exporter writes",
    "Users, groups, tokens and role bindings",
    "Display names and descriptions of clusters, projects and namespaces",
)
"""No declared type has a field for these."""
