"""telemetryd: watches a Rancher management cluster and updates its SCC telemetry Secret."""

from functools import cache
from pathlib import Path

__version__ = "1.0.0"


@cache
def revision() -> str:
    """Returns the commit that the build wrote into `REVISION`; empty in a checkout."""
    try:
        return Path(__file__).with_name("REVISION").read_text(encoding="utf-8").strip()
    except OSError:
        return ""
