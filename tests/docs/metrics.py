"""Makes the reference of the metrics out of the table they are exposed by, and of one scrape."""

from collections.abc import Iterator

import anyio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from telemetryd.errors import Reason
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.serve.metrics.family import PREFIX, Family, Label
from tests.docs.markdown import table
from tests.serve.facts import Facts

HEADINGS = ("metric", "type", "labels", "unit", "what", "series are there")
_SECTIONS = {
    "Exporters": ("exporter", "payload"),
    "Caches": ("informer", "snapshot"),
    "The API server": ("kube",),
    "The fleet": ("fleet",),
    "The daemon": ("",),
}
_UNITS = {
    "timestamp_seconds": "Unix seconds",
    "seconds": "seconds",
    "bytes": "bytes",
    "cores": "cores",
}


def render_metrics() -> str:
    """Every metric that a daemon shows."""
    return "\n".join(_sections()).rstrip() + "\n"


def _sections() -> Iterator[str]:
    open_labels = {label for family in FAMILIES for label in family.labels if not label.values}
    yield "Labels whose values are no closed list:\n"
    yield table(
        ("label", "says"),
        sorted((f"`{label.name}`", label.about) for label in open_labels),
    )
    rest = list(FAMILIES)
    for title, prefixes in _SECTIONS.items():
        chosen = [family for family in rest if family.name.startswith(prefixes)]
        rest = [family for family in rest if family not in chosen]
        yield f"## {title}\n"
        yield table(HEADINGS, map(_row, chosen))
    yield "## The process and Python\n"
    yield table(HEADINGS, (_foreign_row(metric) for metric in _foreign_metrics()))


def _row(family: Family) -> tuple[str, ...]:
    return (
        f"`{family.exposed_name}`",
        family.type,
        "; ".join(map(_label, family.labels)),
        unit_of(family.name),
        family.help,
        family.appears or "always",
    )


def _label(label: Label) -> str:
    if not label.values:
        return f"`{label.name}`"
    values = ", ".join(f"`{value}`" for value in label.values if value)
    if {*label.values} >= {*Reason}:
        values = "a [reason](troubleshooting.md#reasons)"
    about = f"; {label.about}" if label.about else ""
    return f"`{label.name}`: {values}{about}"


def unit_of(name: str) -> str:
    """The unit that a name ends in; empty for a mere number."""
    return next((unit for suffix, unit in _UNITS.items() if name.endswith(suffix)), "")


def _foreign_metrics() -> list[Metric]:
    """What prometheus_client shows of the process and of Python."""

    async def scrape() -> str:
        return (await Facts().renderer().render()).body.decode()

    families = text_string_to_metric_families(anyio.run(scrape))
    return [family for family in families if not family.name.startswith(PREFIX)]


def _foreign_row(metric: Metric) -> tuple[str, ...]:
    labels = sorted({label for sample in metric.samples for label in sample.labels})
    name = metric.name + ("_total" if metric.type == "counter" else "")
    return (
        f"`{name}`",
        metric.type,
        "; ".join(f"`{label}`" for label in labels),
        unit_of(metric.name),
        f"{metric.documentation.rstrip('.')}.",
        "always",
    )
