"""The formats of payloads, by the names that the configuration uses."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from telemetryd.export.payloads import fleet_document, fleet_v1, scc
from telemetryd.export.payloads.fleet import fleet_renderer
from telemetryd.export.payloads.payload import Renderer
from telemetryd.model import Field


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        needs_detail: Its snapshots must hold the fleet in detail.
        tells_doubts: It calls itself incomplete where the numbers are doubtful.
    """

    renderer: Callable[[], Renderer]
    fields: tuple[Field, ...]
    schema: Callable[[], dict[str, Any]]
    needs_detail: bool
    tells_doubts: bool = False


PAYLOAD_FORMATS: Final[Mapping[str, Format]] = {
    "scc": Format(scc.scc_renderer, scc.FIELDS, scc.scc_schema, needs_detail=False),
    "fleet": Format(
        fleet_renderer,
        fleet_document.FIELDS,
        fleet_document.fleet_schema,
        needs_detail=True,
        tells_doubts=True,
    ),
    "fleet-v1": Format(
        fleet_v1.fleet_v1_renderer, fleet_v1.FIELDS, fleet_v1.fleet_v1_schema, needs_detail=True
    ),
}


def make_renderer(name: str) -> Renderer:
    """What makes payloads of a format: ``scc`` or ``fleet``, which needs detailed snapshots.

    Raises:
        ValueError: There is no such format.
    """
    if name not in PAYLOAD_FORMATS:
        known = ", ".join(f'"{each}"' for each in PAYLOAD_FORMATS)
        raise ValueError(f"format is {name!r}: must be one of {known}")
    return PAYLOAD_FORMATS[name].renderer()
