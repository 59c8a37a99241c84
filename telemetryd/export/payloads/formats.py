"""The formats of payloads, by the names that the configuration uses."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from telemetryd.config import FORMATS
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


class PayloadFormats(Mapping[str, Format]):
    """Each format by its name; its modules are imported when it is asked for."""

    def __getitem__(self, name: str) -> Format:
        """The format of that name.

        Raises:
            KeyError: There is none.
        """
        return _load(name)

    def __iter__(self) -> Iterator[str]:
        return iter(FORMATS)

    def __len__(self) -> int:
        return len(FORMATS)


@cache
def _load(name: str) -> Format:
    match name:
        case "scc":
            from telemetryd.export.payloads import scc  # noqa: PLC0415 - where it is used

            return Format(scc.scc_renderer, scc.FIELDS, scc.scc_schema, needs_detail=False)
        case "fleet":
            from telemetryd.export.payloads import fleet_document  # noqa: PLC0415 - where it is used
            from telemetryd.export.payloads.fleet import fleet_renderer  # noqa: PLC0415

            return Format(
                fleet_renderer,
                fleet_document.FIELDS,
                fleet_document.fleet_schema,
                needs_detail=True,
                tells_doubts=True,
            )
        case "fleet-v1":
            from telemetryd.export.payloads import fleet_v1  # noqa: PLC0415 - where it is used

            return Format(
                fleet_v1.fleet_v1_renderer,
                fleet_v1.FIELDS,
                fleet_v1.fleet_v1_schema,
                needs_detail=True,
            )
        case _:
            raise KeyError(name)


PAYLOAD_FORMATS: Final = PayloadFormats()


def make_renderer(name: str) -> Renderer:
    """What makes payloads of a format: ``scc`` or ``fleet``, which needs detailed snapshots.

    Raises:
        ValueError: There is no such format.
    """
    if name not in PAYLOAD_FORMATS:
        known = ", ".join(f'"{each}"' for each in PAYLOAD_FORMATS)
        raise ValueError(f"format is {name!r}: must be one of {known}")
    return PAYLOAD_FORMATS[name].renderer()
