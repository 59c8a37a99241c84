"""Types of exporters that other installed distributions bring, by their entry points.

An entry point's name is the type; its object has the class of its tables as ``config``, like those
of ``settings``. It is imported only when a table has its type: one that can't be imported affects
only the exporters that use it.
"""

from dataclasses import dataclass, is_dataclass
from typing import TYPE_CHECKING, Any, Final

from telemetryd.bounds import error_text, free_text
from telemetryd.config.schema import keys_of
from telemetryd.config.values import InvalidValue

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP: Final = "telemetryd.exporters"


@dataclass(frozen=True, slots=True)
class Plugin:
    """One type of exporter.

    Attributes:
        distribution: Who brings it: name and version, for messages.
        factory: What the entry point leads to; see ``api.ExporterPlugin``.
    """

    distribution: str
    factory: Any


def installed_types() -> tuple[str, ...]:
    """The types of exporters that are installed beside telemetryd's own; imports nothing."""
    return tuple(sorted({point.name for point in _installed()}))


def find_type(name: str, base: type[Any]) -> type[Any]:
    """The class of that type's tables.

    Raises:
        InvalidValue: It can't be imported, is brought by two distributions, or its class isn't one
            of keys on top of the base.
    """
    plugin = load_plugin(name)
    config: Any = getattr(plugin.factory, "config", None)
    why = what_is_wrong(config, name, base)
    if why:
        raise InvalidValue(f"is of {plugin.distribution}, whose class of tables {why}")
    if not callable(getattr(plugin.factory, "build", None)):
        raise InvalidValue(f"is of {plugin.distribution}, which has no build()")
    found: type[Any] = config
    return found


def load_plugin(name: str) -> Plugin:
    """What the entry point of that name leads to.

    Raises:
        InvalidValue: There is none, there are two, or it can't be imported.
    """
    points = tuple(_installed().select(name=name))
    if len(points) != 1:
        brought = " and ".join(sorted(map(_distribution, points))) or "no distribution"
        raise InvalidValue(f"is brought by {brought}: install one that does")
    (point,) = points
    distribution = _distribution(point)
    try:
        factory = point.load()
    except (Exception, SystemExit) as error:
        # Another distribution's code may fail in any way: only its exporters are affected.
        said = error_text(error)
        raise InvalidValue(f"is of {distribution}, which can't be imported ({said})") from error
    return Plugin(distribution, factory)


def what_is_wrong(config: Any, name: str, base: type[Any]) -> str:
    """Why a class can't describe the tables of a type, empty where it can."""
    if not (isinstance(config, type) and issubclass(config, base) and is_dataclass(config)):
        return f"isn't a dataclass derived from {base.__name__}"
    if getattr(config, "type", None) != name:
        return f"isn't of type {name!r}"
    try:
        keys_of(config)
    except (TypeError, NameError) as error:
        return f"has a key that can't be read: {error}"
    return ""


def _installed() -> "EntryPoints":
    from importlib.metadata import entry_points  # noqa: PLC0415 - most files name no such type

    return entry_points(group=GROUP)


def _distribution(point: "EntryPoint") -> str:
    found = point.dist
    return free_text(f"{found.name} {found.version}") if found is not None else point.value
