"""Prints the bill of materials of an installation: CycloneDX 1.6, in JSON.

It holds what `requirements.lock` holds, with licences and who needs whom, and telemetryd itself;
not the Python it runs on, nor the image's base. It is the same bytes for the same locks: without a
time, and with a serial number made of its content.

    python -m supply.sbom
"""

import json
import sys
from collections.abc import Iterable
from typing import Any
from uuid import NAMESPACE_OID, uuid5

from supply.lock import RUN_LOCK, Lock, LockError, parse_lock
from supply.parts import EXTRAS, Part, needed_by, parts
from telemetryd import __version__

Document = dict[str, Any]

WHEEL_PROPERTY = "telemetryd:wheel-sha256"
"""One for each wheel of a component that an installation may take."""


def render(found: Iterable[Part], lock: Lock, needs: Iterable[str]) -> str:
    """The bill of materials.

    Args:
        found: The parts.
        lock: The wheels of each.
        needs: Normalised names of what telemetryd needs directly.
    """
    found = list(found)
    purls = {name: f"pkg:pypi/{name}@{version}" for name, (version, _) in lock.items()}
    root = f"pkg:pypi/telemetryd@{__version__}"
    described: Document = {
        "type": "application",
        "bom-ref": root,
        "name": "telemetryd",
        "version": __version__,
        "purl": root,
        "licenses": [{"expression": "Apache-2.0"}],
    }
    pairs = list(zip(lock, found, strict=True))
    components = [_component(part, purls[name], lock[name][1]) for name, part in pairs]
    depends = [{"ref": root, "dependsOn": sorted(purls[name] for name in needs)}]
    depends += [
        {"ref": purls[name], "dependsOn": [purls[each] for each in part.needs]}
        for name, part in pairs
    ]
    content: Document = {
        "metadata": {"component": described},
        "components": components,
        "dependencies": depends,
    }
    serial = uuid5(NAMESPACE_OID, json.dumps(content, sort_keys=True))
    head = {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1}
    return json.dumps({**head, "serialNumber": f"urn:uuid:{serial}", **content}, indent=2) + "\n"


def _component(part: Part, purl: str, hashes: Iterable[str]) -> Document:
    wheels = [{"name": WHEEL_PROPERTY, "value": each} for each in sorted(hashes)]
    return {
        "type": "library",
        "bom-ref": purl,
        "name": part.name,
        "version": part.version,
        "description": part.summary,
        "licenses": [{"expression": part.licence}],
        "purl": purl,
        "properties": wheels,
    }


def bill() -> str:
    """The bill of materials of this tree.

    Raises:
        LockError: What is installed here isn't what is locked.
    """
    return render(parts(), parse_lock(RUN_LOCK.read_text()), needed_by("telemetryd", EXTRAS))


def main() -> None:
    """Print it."""
    sys.stdout.write(bill())


if __name__ == "__main__":
    try:
        main()
    except LockError as error:
        sys.exit(f"supply.sbom: {error}")
