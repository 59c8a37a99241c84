"""Imports of large libraries without what telemetryd needs nothing of.

Importing any part of kubernetes_asyncio imports all of it, with 800 model classes: 59 MiB and up to
a second, though its ``config`` package needs almost nothing. Here two of its packages are replaced
by empty ones while ``config`` is imported, and then removed, so that a later import gets the whole
library. The real fix would be lazy imports upstream. Any failure leads to the plain import: only
memory and time depend on this.

aiohttp reads the authorities of the system when it is imported, which takes a megabyte and 30 ms,
for requests that bring no context of their own. Here they are read for the first of those.
"""

import importlib
import importlib.util
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

_LIBRARY = "kubernetes_asyncio"
_CLIENT = f"{_LIBRARY}.client"


@contextmanager
def without_models() -> Iterator[None]:
    """Within the block, imports from ``kubernetes_asyncio.config`` are cheap where possible."""
    if _is_imported():
        yield
        return
    try:
        _stand_in()
        importlib.import_module(f"{_LIBRARY}.config")
    except Exception:  # noqa: BLE001 - another version may fail in any way; the plain import won't
        _forget()
    is_light = _is_imported()
    try:
        yield
    finally:
        if is_light:
            _forget()


def _is_imported() -> bool:
    return _LIBRARY in sys.modules


def _stand_in() -> None:
    spec = importlib.util.find_spec(_LIBRARY)
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(_LIBRARY)
    folder = Path(spec.submodule_search_locations[0])
    sys.modules[_LIBRARY] = _package(_LIBRARY, folder)
    client = sys.modules[_CLIENT] = _package(_CLIENT, folder / "client")
    configuration = importlib.import_module(f"{_CLIENT}.configuration")
    vars(client)["Configuration"] = configuration.Configuration
    # Only named in functions that make whole clients, which are not called here.
    vars(client)["ApiClient"] = object


def _package(name: str, folder: Path) -> ModuleType:
    package = ModuleType(name)
    package.__path__ = [str(folder)]
    return package


def _forget() -> None:
    for name in [*sys.modules]:
        if name == _LIBRARY or name.startswith(f"{_LIBRARY}."):
            del sys.modules[name]


class LateAuthorities(ssl.SSLContext):
    """A context that reads the system's authorities for its first connection."""

    purpose: ssl.Purpose

    @classmethod
    def take_over(cls, context: ssl.SSLContext, purpose: ssl.Purpose) -> None:
        """Make this of a context that has read none."""
        vars(context)["purpose"] = purpose
        context.__class__ = cls

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
        """As a context that has read them."""
        self._read()
        return self.wrap_bio(*args, **options)

    def wrap_socket(self, *args: Any, **options: Any) -> ssl.SSLSocket:
        """As a context that has read them."""
        self._read()
        return self.wrap_socket(*args, **options)

    def _read(self) -> None:
        self.__class__ = ssl.SSLContext  # type: ignore[assignment]
        self.load_default_certs(self.purpose)


def import_aiohttp() -> None:
    """Import aiohttp, unless it is there, without reading the system's authorities."""
    if "aiohttp" in sys.modules:
        return
    made: list[tuple[ssl.SSLContext, ssl.Purpose]] = []

    def note(context: ssl.SSLContext, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:
        made.append((context, purpose))

    read = ssl.SSLContext.load_default_certs
    ssl.SSLContext.load_default_certs = note  # type: ignore[assignment, method-assign]
    try:
        importlib.import_module("aiohttp")
    finally:
        ssl.SSLContext.load_default_certs = read  # type: ignore[method-assign]
        for context, purpose in made:
            LateAuthorities.take_over(context, purpose)
