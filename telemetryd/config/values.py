"""One parser per kind of value: what it accepts, what it makes of it, what would be right.

No keys and no defaults: ``settings`` puts these parsers to the keys. Every message continues the
key path (``exporters[0].interval: "60" has no unit: write "60s"``) and echoes only the value of a
known key that can't hold a credential.
"""

import ipaddress
import json
import math
import re
from dataclasses import dataclass
from typing import ClassVar, Final, Generic, TypeVar
from urllib.parse import urlsplit

from telemetryd.bounds import visible

T = TypeVar("T")

AUTO: Final = "auto"
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S
YEAR_S = 365 * DAY_S

_SHOWN_CHARACTERS = 60
_FEW = 2  # letters, which many words begin with
_LARGEST_SHOWN_BITS = 64
_LARGEST_PORT = 65535
_UNITS_MS = {"y": 31_536_000_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
DURATION_PATTERN = "".join(f"([0-9]+{unit})?" for unit in _UNITS_MS)
"""Of a duration: whole numbers with their units, the largest first."""
_DURATION = re.compile(DURATION_PATTERN)
_LONG_MS = 2 * _UNITS_MS["d"]
"""Shorter durations are written without days: 24h, 36h."""
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST_LABEL = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9]{0,61}[A-Za-z0-9])?")
_DNS_SUBDOMAIN_CHARACTERS = 253  # RFC 1123, as Kubernetes checks the names of objects
_LISTEN = re.compile(r"(?:\[(?P<ip6>[^\]]*)\]|(?P<host>[^:\[\]]*)):(?P<port>[0-9]{1,5})")


class InvalidValue(ValueError):
    """A value doesn't fit its key; the message says what would be right."""


class Kind(Generic[T]):
    """What a key's value may be.

    Attributes:
        suffix: Unit at the end of the attribute's name that the key in the file doesn't carry.
    """

    suffix: ClassVar[str] = ""

    def parse(self, value: object) -> T:
        """Turn what TOML holds into what the daemon uses.

        Raises:
            InvalidValue: It doesn't fit.
        """
        return self._parse(value)

    def _parse(self, value: object) -> T:
        raise NotImplementedError


def show(value: object) -> str:
    """A value as it may stand in a message: short, on one line, printable, whatever it is."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            cut = value if len(value) <= _SHOWN_CHARACTERS else value[:_SHOWN_CHARACTERS] + "…"
            return visible(json.dumps(cut, ensure_ascii=False))
        case int() if value.bit_length() > _LARGEST_SHOWN_BITS:
            return "a number of more than 64 bits"
        case int() | float():
            return str(value)
        case _:
            return "a table" if isinstance(value, dict) else "an array or a date"


def name_kind(value: object) -> str:
    """What TOML holds, without the value: for keys that may hold a credential by mistake."""
    match value:
        case bool():
            return "true or false"
        case str():
            return "text"
        case int() | float():
            return "a number"
        case _:
            return show(value)


def did_you_mean(given: str, known: tuple[str, ...]) -> str:
    """``; did you mean "…"?``, or nothing where no known word is near."""
    from difflib import get_close_matches  # noqa: PLC0415 - for mistakes alone

    word = given.lower()
    begun = [each for each in known if each.startswith(word)] if len(word) > _FEW else []
    near = begun or get_close_matches(word, known, n=1, cutoff=0.65)
    return f"; did you mean {show(near[0])}?" if near else ""


def render_duration(seconds: float) -> str:
    """Seconds as a duration of the file: ``90.0`` is ``1m30s``. Years are whole, or in days."""
    rest_ms = round(seconds * 1000)
    parts = []
    for unit, unit_ms in _UNITS_MS.items():
        short = unit_ms >= _UNITS_MS["d"] and rest_ms < _LONG_MS
        if short or (unit == "y" and rest_ms % unit_ms):
            continue
        count, rest_ms = divmod(rest_ms, unit_ms)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


@dataclass(frozen=True, slots=True)
class Duration(Kind[float]):
    """``"1h30m"``, ``"60s"``, ``"500ms"``: whole numbers with their units; to float seconds.

    Attributes:
        minimum_s: Seconds, allowed itself.
        maximum_s: Seconds, allowed itself.
    """

    minimum_s: float = 1.0
    maximum_s: float = YEAR_S
    suffix: ClassVar[str] = "_s"

    def _parse(self, value: object) -> float:
        if not isinstance(value, str):
            raise InvalidValue(f'is {show(value)}: must be a duration in quotes such as "60s"')
        if value.startswith("-"):
            raise InvalidValue(f"{show(value)} is negative: must be {self._range()}")
        if re.fullmatch(r"[0-9]{1,9}", value):
            raise InvalidValue(f'{show(value)} has no unit: write "{value}s" for seconds')
        found = _DURATION.fullmatch(value) if value and len(value) <= _SHOWN_CHARACTERS else None
        if found is None:
            raise InvalidValue(
                f"{show(value)} isn't a duration: write whole numbers with the units"
                f' {", ".join(_UNITS_MS)}, in that order, such as "60s" or "1h30m"'
            )
        total_ms = sum(
            int(given.removesuffix(unit)) * unit_ms
            for given, (unit, unit_ms) in zip(found.groups(), _UNITS_MS.items(), strict=True)
            if given
        )
        if not self.minimum_s * 1000 <= total_ms <= self.maximum_s * 1000:
            raise InvalidValue(f"{show(value)} is out of range: must be {self._range()}")
        return total_ms / 1000

    def _range(self) -> str:
        return f"{render_duration(self.minimum_s)} to {render_duration(self.maximum_s)}"


def parse_duration(text: str) -> float:
    """A duration outside of the file, of a millisecond at least, to seconds.

    Raises:
        InvalidValue: Not a duration, or out of range.
    """
    return Duration(minimum_s=0.001).parse(text)


@dataclass(frozen=True, slots=True)
class Choice(Kind[str]):
    """One of a few ``words``."""

    words: tuple[str, ...]

    def _parse(self, value: object) -> str:
        if isinstance(value, str) and value in self.words:
            return value
        listed = ", ".join(show(word) for word in self.words)
        one_of = f"one of {listed}" if len(self.words) > 1 else listed
        hint = did_you_mean(value, self.words) if isinstance(value, str) else ""
        raise InvalidValue(f"is {show(value)}: must be {one_of}{hint}")


@dataclass(frozen=True, slots=True)
class Boolean(Kind[bool]):
    """``true`` or ``false``."""

    def _parse(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise InvalidValue(f"is {show(value)}: must be true or false, without quotes")
        return value


@dataclass(frozen=True, slots=True)
class BooleanOrAuto(Kind[bool | str]):
    """``true``, ``false``, or ``"auto"``: left to circumstances."""

    def _parse(self, value: object) -> bool | str:
        if isinstance(value, bool):
            return value
        if value == AUTO:
            return AUTO
        raise InvalidValue(f'is {show(value)}: must be "auto", or true or false without quotes')


@dataclass(frozen=True, slots=True)
class Integer(Kind[int]):
    """A whole number from ``minimum`` to ``maximum``, both allowed."""

    minimum: int
    maximum: int

    def _parse(self, value: object) -> int:
        right = f"must be a whole number from {self.minimum} to {self.maximum}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidValue(f"is {show(value)}: {right}, without quotes")
        if not self.minimum <= value <= self.maximum:
            raise InvalidValue(f"is {show(value)}: {right}")
        return value


@dataclass(frozen=True, slots=True)
class Number(Kind[float]):
    """A number from ``minimum`` to ``maximum``, both allowed; to float."""

    minimum: float
    maximum: float

    def _parse(self, value: object) -> float:
        right = f"must be a number from {self.minimum:g} to {self.maximum:g}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidValue(f"is {show(value)}: {right}, without quotes")
        if math.isnan(value) or not self.minimum <= value <= self.maximum:
            raise InvalidValue(f"is {show(value)}: {right}")
        return float(value)


@dataclass(frozen=True, slots=True)
class Text(Kind[str]):
    """Text on one line, not empty, of at most ``maximum`` characters.

    ``what`` names it in messages, which never show the value.
    """

    what: str
    maximum: int = 1024

    def _parse(self, value: object) -> str:
        if not isinstance(value, str):
            raise InvalidValue(f"is {name_kind(value)}: must be {self.what} in quotes")
        if not value.strip():
            raise InvalidValue(f"is empty: must be {self.what}; leave the key out for its default")
        if len(value) > self.maximum:
            raise InvalidValue(f"is too long: at most {self.maximum} characters")
        if not value.isprintable():
            raise InvalidValue(f"has control characters: must be {self.what} on one line")
        return value


@dataclass(frozen=True, slots=True)
class Uuid(Kind[str]):
    """A UUID in its usual form; to lower case."""

    def _parse(self, value: object) -> str:
        if not isinstance(value, str) or not _UUID.fullmatch(value):
            raise InvalidValue(
                f"is {show(value)}: must be a UUID such as"
                ' "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d"; leave the key out to have it discovered'
            )
        return value.lower()


@dataclass(frozen=True, slots=True)
class Url(Kind[str]):
    """An http or https URL without credentials, query or fragment."""

    def _parse(self, value: object) -> str:
        right = 'must be a URL such as "https://rancher.example.com"'
        if not isinstance(value, str):
            raise InvalidValue(f"is {name_kind(value)}: {right}")
        try:
            parts = urlsplit(value)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, parts, port = None, urlsplit(""), None
        if parts.scheme not in {"http", "https"} or not host or port == 0:
            raise InvalidValue(f"isn't an http or https URL with a host: {right}")
        if not value.isprintable() or " " in value:
            raise InvalidValue(f"has spaces or control characters: {right}")
        if "@" in parts.netloc or "?" in value or "#" in value:
            raise InvalidValue(f"has credentials, a query or a fragment: {right}")
        return value


@dataclass(frozen=True, slots=True)
class DnsLabel(Kind[str]):
    """A DNS label (RFC 1123), as namespaces and exporters are named.

    Attributes:
        reserved: A prefix that users can't use, empty for none.
    """

    reserved: str = ""

    def _parse(self, value: object) -> str:
        if isinstance(value, str) and self.reserved and value.startswith(self.reserved):
            raise InvalidValue(
                f"is {show(value)}: names under {show(self.reserved)} are made by the"
                " SecretRequest controller; choose another"
            )
        if not isinstance(value, str) or not _DNS_LABEL.fullmatch(value):
            raise InvalidValue(
                f"is {show(value)}: must be a DNS label: 1 to 63 lower-case letters, digits and"
                " hyphens, with a letter or digit at both ends"
            )
        return value


@dataclass(frozen=True, slots=True)
class DnsSubdomain(Kind[str]):
    """A DNS subdomain (RFC 1123), as Secrets are named."""

    def _parse(self, value: object) -> str:
        if (
            not isinstance(value, str)
            or len(value) > _DNS_SUBDOMAIN_CHARACTERS
            or not all(_DNS_LABEL.fullmatch(label) for label in value.split("."))
        ):
            raise InvalidValue(
                f"is {show(value)}: must be a DNS subdomain: at most 253 lower-case letters,"
                " digits, hyphens and dots, with a letter or digit at both ends of each part"
            )
        return value


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Where to listen; an empty host is every address of the machine, port 0 a free port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listen(Kind[ListenAddress]):
    """``host:port`` as Prometheus and its exporters take it; ``:port`` is every address."""

    def _parse(self, value: object) -> ListenAddress:
        right = 'must be an address such as "127.0.0.1:10464", "[::1]:10464" or ":10464"'
        found = _LISTEN.fullmatch(value) if isinstance(value, str) else None
        if found is None:
            raise InvalidValue(f"is {show(value)}: {right}")
        port = int(found["port"])
        if port > _LARGEST_PORT:
            raise InvalidValue(f"is {show(value)}: the port must be 0 to {_LARGEST_PORT}")
        host = found["host"] if found["ip6"] is None else found["ip6"]
        if not _is_host(host, ip6=found["ip6"] is not None):
            raise InvalidValue(f"is {show(value)}, whose host isn't valid: {right}")
        if why := why_unbindable(host):
            raise InvalidValue(f"is {show(value)}: {why}")
        return ListenAddress(host, port)


def _is_host(host: str, *, ip6: bool) -> bool:
    try:
        if ip6:
            return bool(ipaddress.IPv6Address(host))
        if re.fullmatch(r"[0-9.]+", host):
            return bool(ipaddress.IPv4Address(host))
    except ValueError:
        return False
    labels = host.removesuffix(".").split(".")
    named = len(host) <= _DNS_SUBDOMAIN_CHARACTERS and all(map(_HOST_LABEL.fullmatch, labels))
    return host == "" or named


def why_unbindable(host: str) -> str:  # noqa: PLR0911 - one line a case
    """Why no machine can listen there, with what would be right; empty for all other hosts.

    Args:
        host: A name, or an IP address with a zone or without.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if address.is_multicast:
        return "a multicast address is no address of this machine: name one that it has"
    if isinstance(address, ipaddress.IPv4Address):
        reserved = address.is_reserved or (int(address) >> 24 == 0 and not address.is_unspecified)
        return "a reserved address is never a machine's: name one that it has" if reserved else ""
    if address.ipv4_mapped is not None:
        return f"write the IPv4 address alone: {address.ipv4_mapped}"
    if address.is_link_local and address.scope_id is None:
        return f'a link-local address needs its interface, as in "[{host}%eth0]"'
    if address.scope_id is not None and not address.is_link_local:
        return f"only link-local addresses have a zone: leave %{address.scope_id} out"
    return ""
