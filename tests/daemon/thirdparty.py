"""An exporter as another distribution brings it: it notes all that it is given.

Tests install this file as a distribution of its own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from telemetryd.api import (
    AbsolutePath,
    BuildContext,
    ExportContext,
    ExporterConfig,
    Outcome,
    Payload,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Table(ExporterConfig):
    """Its table.

    Attributes:
        path: Where it writes the payload and the notes.
    """

    type: ClassVar[str] = "third"
    path: Annotated[str, AbsolutePath()]


def noted(name: str, given: object) -> dict[str, str]:
    """Every public attribute, by its key."""
    return {f"{name}.{key}": repr(getattr(given, key)) for key in dir(given) if key[0] != "_"}


class Third:
    """Writes a file with the payload and the notes."""

    def __init__(self, config: Table, build: BuildContext) -> None:
        self._config, self._build = config, build

    async def export(self, payload: Payload, context: ExportContext) -> Outcome:
        """Write it."""
        given = noted("payload", payload) | noted("context", context)
        given |= noted("build", self._build) | {"config": repr(self._config)}
        place = Path(self._config.path)
        new = place.with_suffix(".new")
        new.write_text(json.dumps([payload.body.decode(), given]))
        new.rename(place)
        return Outcome.WRITTEN

    async def aclose(self) -> None:
        """Nothing is held."""


class Factory:
    """What the entry point leads to."""

    config = Table

    def build(self, *given: Any) -> Third:
        """Take all that comes: one argument more fails the test."""
        return Third(*given)


THIRD = Factory()
