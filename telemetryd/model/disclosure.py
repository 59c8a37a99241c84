"""What an exporter sends, field by field."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One field that leaves.

    Attributes:
        key: Its place in the payload: ``subscription.arch``, ``managedSystems[].cpu``;
            ``telemetryd.fleet.clusters{telemetryd.cluster.kind}`` for an attribute of a metric,
            ``resource{service.name}`` for one of the OTLP resource, ``header User-Agent``.
        what: Its meaning, without a full stop.
        rancher: Its source with Rancher.
        kubernetes: Its source on plain Kubernetes; empty if it is never sent.
        privacy: The ``[privacy]`` key that omits it, if any.
        identity: The ``[identity]`` key that replaces it, if any.
        keeps_key: Without a value it is sent empty.
    """

    key: str
    what: str
    rancher: str
    kubernetes: str
    privacy: str = ""
    identity: str = ""
    keeps_key: bool = True


@dataclass(frozen=True, slots=True)
class Disclosure:
    """All that one exporter sends.

    Attributes:
        format: Of its payload; empty if its type has only one.
        fields: In the order of display; empty if nothing is declared.
        plugin: Name and version of the plug-in's distribution; empty for telemetryd's own types.
        given: Keys and meanings of what a plug-in gets; it decides what it sends.
    """

    format: str = ""
    fields: tuple[Field, ...] = ()
    plugin: str = ""
    given: tuple[tuple[str, str], ...] = ()
