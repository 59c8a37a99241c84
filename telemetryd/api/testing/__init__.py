"""A test kit for exporters: it needs telemetryd alone, no test framework.

``check_exporter`` runs a plug-in against the contract that the engine relies on. ``driving`` runs
an exporter as the daemon does. The rest makes what both need: tables, snapshots, payloads.
"""

from telemetryd.api.testing.contract import check_exporter
from telemetryd.api.testing.driving import Drive, ExportCall, driving
from telemetryd.api.testing.samples import (
    FakeSource,
    make_context,
    make_exporter,
    make_payload,
    make_snapshot,
    read_table,
)

__all__ = [
    "Drive",
    "ExportCall",
    "FakeSource",
    "check_exporter",
    "driving",
    "make_context",
    "make_exporter",
    "make_payload",
    "make_snapshot",
    "read_table",
]
