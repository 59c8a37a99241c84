"""Which formats a payload can have, and what makes each; their names are the configuration's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from telemetryd.export.fleet import FleetRenderer, fleet_schema
from telemetryd.export.payload import Renderer
from telemetryd.export.scc import SccRenderer, scc_schema


@dataclass(frozen=True, slots=True)
class Format:
    """One format.

    Attributes:
        renderer: Makes what makes its payloads.
        schema: Its JSON Schema.
        needs_detail: Its snapshots must hold the fleet in detail.
    """

    renderer: Callable[[], Renderer]
    schema: Callable[[], dict[str, Any]]
    needs_detail: bool


PAYLOAD_FORMATS: Final[Mapping[str, Format]] = {
    "scc": Format(SccRenderer, scc_schema, needs_detail=False),
    "fleet": Format(FleetRenderer, fleet_schema, needs_detail=True),
}
