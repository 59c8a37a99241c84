"""What an exporter sends, field by field: declared where it is rendered, shown wherever asked."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Field:
    """One field that leaves.

    Attributes:
        key: Where it is in what arrives: ``subscription.arch``, ``managedSystems[].cpu``;
            ``telemetryd.fleet.clusters{telemetryd.cluster.kind}`` for an attribute of a metric,
            ``resource{service.name}`` for one of the OTLP resource, ``header User-Agent``.
        what: What it says, without a full stop.
        rancher: Where it comes from with a Rancher.
        kubernetes: Where it comes from on plain Kubernetes; empty where there is nothing to send.
        privacy: The ``[privacy]`` key that omits it, empty for none.
        identity: The ``[identity]`` key that replaces it, empty for none.
        keeps_key: Without a value the key is there all the same, with an empty one.
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
        format: Of its payload; empty where its type has no choice of formats.
        fields: In the order in which people read them; empty where nothing is declared.
        plugin: Name and version of the distribution that brings the exporter; empty for
            telemetryd's own types.
        given: What such a plug-in is given, key and meaning; what it sends is its own decision.
    """

    format: str = ""
    fields: tuple[Field, ...] = ()
    plugin: str = ""
    given: tuple[tuple[str, str], ...] = ()
