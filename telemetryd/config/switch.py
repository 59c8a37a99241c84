"""A kind of value: a switch that may be left to circumstances."""

from dataclasses import dataclass
from typing import ClassVar

from telemetryd.config.values import InvalidValue, show

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Switch:
    """``"auto"``, ``true`` or ``false``."""

    suffix: ClassVar[str] = ""

    def parse(self, value: object) -> bool | str:
        """Parse.

        Raises:
            InvalidValue: None of the three.
        """
        if isinstance(value, bool):
            return value
        if value == AUTO:
            return AUTO
        raise InvalidValue(f'is {show(value)}: must be "auto", or true or false without quotes')
