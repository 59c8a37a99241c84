"""Makes the tables of what is sent and what is read out of the declarations beside the code."""

from collections.abc import Callable, Iterable
from typing import Final

from telemetryd.export.exporter import GIVEN
from telemetryd.export.payloads import fleet_document, otlp_metrics, scc
from telemetryd.export.sinks import http, secret
from telemetryd.gather.reads import KEYS_READ, READ_OF
from telemetryd.model import Field
from telemetryd.serve.page.disclosure import NEVER_READ
from tests.docs.markdown import table

_HEADINGS: Final = ("key", "says", "with a Rancher, from", "without one, from", "see")


def render_fields(fields: Iterable[Field]) -> str:
    """A row for each field."""
    return table(_HEADINGS, map(_row, fields))


def _row(field: Field) -> tuple[str, ...]:
    left = "" if field.keeps_key else "left out without a value"
    omitted = f"`privacy.{field.privacy}` omits it" if field.privacy else ""
    replaced = f"`identity.{field.identity}` replaces it" if field.identity else ""
    return (
        f"`{field.key}`",
        field.what,
        field.rancher,
        "the same" if field.kubernetes == field.rancher else field.kubernetes or "nothing",
        "; ".join(filter(None, (left, omitted, replaced))),
    )


def _render_given() -> str:
    return table(("what", "says"), ((f"`{key}`", what) for key, what in GIVEN))


def _render_reads() -> str:
    rows = (
        (f"`{resource}`", ", ".join(f"`{key}`" for key in keys), READ_OF.get(resource, "all"))
        for resource, keys in KEYS_READ.items()
    )
    return table(("objects", "keys", "of which"), rows)


def _render_never() -> str:
    return "".join(f"- {line}.\n" for line in NEVER_READ)


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "scc": lambda: render_fields(scc.FIELDS),
    "fleet": lambda: render_fields(fleet_document.FIELDS),
    "otlp": lambda: render_fields(otlp_metrics.FIELDS),
    "headers": lambda: render_fields(http.HEADERS),
    "annotations": lambda: render_fields(secret.ANNOTATIONS),
    "plug-in": _render_given,
    "reads": _render_reads,
    "never": _render_never,
}
"""What stands between the marks of ``docs/collected.md``, by the name in the mark."""
