"""Kinds of values about storage: sizes and paths; more of what ``values`` holds.

Nothing is looked up on a disk here.
"""

import posixpath
import re
from dataclasses import dataclass

from telemetryd.config.values import InvalidValue, Kind, Text, show

_SIZE = re.compile(r"([0-9]{1,18})(B|KiB|MiB|GiB|TiB)")
_UNIT_BYTES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_LARGEST_BYTES = 1 << 50
_PATH_CHARACTERS = 4095  # PATH_MAX of Linux, without its NUL


@dataclass(frozen=True, slots=True)
class Size(Kind[int]):
    """``"10MiB"``, ``"512KiB"``: a whole number with its unit; to bytes, 1 at least."""

    def _parse(self, value: object) -> int:
        if not isinstance(value, str):
            raise InvalidValue(f'is {show(value)}: must be a size in quotes such as "10MiB"')
        found = _SIZE.fullmatch(value)
        if found is None:
            raise InvalidValue(
                f"{show(value)} isn't a size: write a whole number with one of the units B, KiB,"
                ' MiB, GiB, TiB, such as "10MiB"'
            )
        size_bytes = int(found[1]) * _UNIT_BYTES[found[2]]
        if not 1 <= size_bytes <= _LARGEST_BYTES:
            raise InvalidValue(f"{show(value)} is out of range: must be 1B to 1024TiB")
        return size_bytes


@dataclass(frozen=True, slots=True)
class AbsolutePath(Kind[str]):
    """An absolute path; to its shortest form, without following links.

    No message shows the value: a token may have been given in place of the path of its file.
    """

    def _parse(self, value: object) -> str:
        right = 'must be an absolute path such as "/var/lib/telemetryd/scc"'
        path = Text("an absolute path", maximum=_PATH_CHARACTERS).parse(value)
        if not path.startswith("/"):
            raise InvalidValue(right)
        if ".." in path.split("/"):
            # Behind a link it leads elsewhere than it reads: two such can't be distinguished.
            raise InvalidValue(f'{right}, without ".."')
        return posixpath.normpath("/" + path.lstrip("/"))
