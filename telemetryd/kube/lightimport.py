"""kubernetes_asyncio's configuration loaders without the 800 model classes that come with them.

Importing any part of the library imports all of it: 59 MiB and up to a second, though its
``config`` package needs almost nothing. Here two of its packages are replaced by empty ones while
``config`` is imported, and then removed, so that a later import gets the whole library. The real
fix would be lazy imports upstream. Any failure leads to the plain import: only memory and time
depend on this.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

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
