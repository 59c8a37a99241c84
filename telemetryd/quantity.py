"""Kubernetes quantities, exact: text or JSON number in, whole numbers of 1e-9 units out.

The grammar is that of ``resource.Quantity`` in k8s.io/apimachinery.
"""

import re

from telemetryd.errors import QuantityError

NANO = 10**9
"""Units of the results in one whole: apimachinery keeps nine decimal places."""

MAX_TEXT = 256
"""Longest text that is looked at. Canonical quantities have at most 30 characters."""

_MAX_NANO = (2**63 - 1) * NANO
_MAX_EXPONENT = 2**63 - 1  # apimachinery reads exponents with strconv.ParseInt
_MAX_SCALE = 28  # 10**28 alone is above the cap
_NANO_MIB = NANO * 2**20

# `5E` is exa, `5E3` an exponent: the exponent wants a digit, so the two never compete.
_QUANTITY = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]+))?"
)
# What Unicode calls white space, which apimachinery trims (Go's unicode.IsSpace).
_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}


def parse_quantity(value: str | float) -> int:
    """Parse one quantity into units of 1e-9.

    What is finer than 1e-9 is rounded away from zero, and what is larger than 2**63-1 is capped
    there, as apimachinery documents of its type. Cost is bounded whatever the text holds.

    ``value`` may have white space around it, or be the number that JSON had in its place.

    Raises:
        QuantityError: It isn't a quantity.
    """
    if isinstance(value, bool):
        raise QuantityError("a quantity can't be true or false")
    if isinstance(value, int):
        return max(-_MAX_NANO, min(value * NANO, _MAX_NANO))
    # repr() of a float is the shortest text that reads back as it: what the JSON most likely held.
    text = repr(value) if isinstance(value, float) else value.strip(_SPACE)
    if len(text) > MAX_TEXT:
        raise QuantityError(f"{len(text)} characters are too many for a quantity")
    match = _QUANTITY.fullmatch(text)
    if match is None:
        raise QuantityError(f"not a Kubernetes quantity: {text[:40]!r}")
    sign, whole, fraction, suffix, exponent = match.groups()
    digits = whole + (fraction or "")
    if not digits:
        raise QuantityError(f"a quantity without digits: {text[:40]!r}")
    magnitude = _magnitude_nano(digits, len(fraction or ""), suffix or "", exponent or "0")
    return -magnitude if sign == "-" else magnitude


def _magnitude_nano(digits: str, places: int, suffix: str, exponent: str) -> int:
    """``digits`` with ``places`` decimal places, scaled, in 1e-9 units, rounded up and capped.

    Raises:
        QuantityError: The exponent is out of bounds.
    """
    power = int(exponent)
    if abs(power) > _MAX_EXPONENT:
        raise QuantityError("the exponent of a quantity doesn't fit in 64 bits")
    number = int(digits) << _BINARY.get(suffix, 0)
    if number == 0:
        return 0
    scale = 9 - places + power + _DECIMAL.get(suffix, 0)
    if scale > _MAX_SCALE:
        return _MAX_NANO
    if scale < -2 * MAX_TEXT:
        return 1  # there are fewer digits than places: less than 1e-9, and rounded up to it
    tens: int = 10 ** abs(scale)
    return min(number * tens if scale >= 0 else -(-number // tens), _MAX_NANO)


def parse_capacity(value: str | float | None) -> int:
    """A capacity of a node, in units of 1e-9.

    Raises:
        QuantityError: It is missing or empty, isn't a quantity, or is negative.
    """
    if value is None or value == "":
        raise QuantityError("no capacity is reported")
    nano = parse_quantity(value)
    if nano < 0:
        raise QuantityError("a capacity can't be negative")
    return nano


def whole_cores(nano: int) -> int:
    """Whole cores of an amount in 1e-9 cores, rounded up."""
    return -(-nano // NANO)


def whole_mib(nano: int) -> int:
    """Whole MiB of an amount in 1e-9 bytes, rounded up."""
    return -(-nano // _NANO_MIB)


def next_power(number: int) -> int:
    """The next power of two; 0 for 0."""
    return 1 << (number - 1).bit_length() if number > 0 else 0


def up_to(amount: int, unit: int) -> int:
    """An amount in whole units, rounded up."""
    return -(-amount // unit) * unit
