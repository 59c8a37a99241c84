"""YAML as client-go reads it: YAML 1.1 of go-yaml v2, turned into what JSON can hold.

Three things differ from PyYAML's own loader. A date is text, ``y`` and ``n`` are booleans, and only
the first document counts. Nothing here recurses, and the number of values is limited, so no file
can exhaust the stack, the memory or the time.
"""

import base64
import binascii
import math
import re
from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_DEPTH = 200
"""Of nested lists and mappings; a kubeconfig needs about ten."""

MAX_VALUES = 2_000_000
"""With aliases written out; a kubeconfig of 16 MiB has far fewer."""

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml: ten times as fast

_TAG = "tag:yaml.org,2002:"
_WORDS: dict[str, object] = {
    **dict.fromkeys(
        ("y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "true", "True", "TRUE"), True
    ),
    **dict.fromkeys(("n", "N", "no", "No", "NO", "off", "Off", "OFF"), False),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), math.inf),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), -math.inf),
}
_INTEGER = re.compile(
    r"([-+]?)(?:0x([0-9a-f]{1,16})|0o?([0-7]{1,22})|0b([01]{1,64})|(0|[1-9][0-9]{0,19}))",
    re.IGNORECASE,
)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


class NotYamlError(ValueError):
    """Not YAML that client-go reads; the message holds nothing of the content."""


def load_first_document(content: bytes) -> object:
    """The first document of a YAML stream; None where there is none.

    Returns:
        Dictionaries with text as keys, lists, text, numbers, booleans and None. Values that are
        named by aliases are shared.

    Raises:
        NotYamlError: It can't be parsed, or JSON can't hold it.
    """
    try:
        return _Builder(_LOADER(content)).build()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        # Neither the message nor the chain: both quote the line, which may hold a token.
        raise NotYamlError(f"not YAML{line}") from None


@dataclass(slots=True)
class _Open:
    """A list or mapping that isn't closed yet."""

    value: dict[str, Any] | list[Any]
    anchor: str | None
    before: int
    key: object = None
    has_key: bool = False


@dataclass(slots=True)
class _Builder:
    loader: Any
    opened: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[object, int]] = field(default_factory=dict)
    count: int = 0
    result: object = None

    def build(self) -> object:
        while self.loader.check_event():
            event = self.loader.get_event()
            try:
                if self._take(event):
                    return self.result
            except NotYamlError as error:
                message = f"{error} (line {event.start_mark.line + 1})"
                raise NotYamlError(message) from None
        return None

    def _take(self, event: Any) -> bool:
        if isinstance(event, yaml.DocumentEndEvent):
            return True
        if isinstance(event, yaml.DocumentStartEvent) and event.version not in {None, (1, 1)}:
            raise NotYamlError("not YAML 1.1")
        if isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if len(self.opened) >= MAX_DEPTH:
                raise NotYamlError(f"is nested more than {MAX_DEPTH} deep")
            new: dict[str, Any] | list[Any] = (
                {} if isinstance(event, yaml.MappingStartEvent) else []
            )
            self.opened.append(_Open(new, event.anchor, self.count))
            if event.anchor:
                self.anchors.pop(event.anchor, None)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            ended = self.opened.pop()
            self._add(ended.value, ended.anchor, self.count - ended.before)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise NotYamlError("not YAML: an alias without its anchor")
            value, size = self.anchors[event.anchor]
            self.count += size
            self._add(value, None, size)
        elif isinstance(event, yaml.ScalarEvent):
            self._take_scalar(event)
        return False

    def _take_scalar(self, event: Any) -> None:
        at = self.opened[-1] if self.opened else None
        is_plain = event.implicit[0]
        is_key = at is not None and isinstance(at.value, dict) and not at.has_key
        if is_key and event.value == "<<" and (is_plain or event.tag == f"{_TAG}merge"):
            self._add(_MERGE, event.anchor, 0)
            return
        self._add(_scalar(event.value, event.tag, is_plain=is_plain), event.anchor, 0)

    def _add(self, value: object, anchor: str | None, size: int) -> None:
        self.count += 1
        if self.count > MAX_VALUES:
            raise NotYamlError(f"has more than {MAX_VALUES} values")
        if anchor:
            self.anchors[anchor] = value, size + 1
        if not self.opened:
            self.result = value
            return
        at = self.opened[-1]
        if isinstance(at.value, list):
            at.value.append(value)
        elif not at.has_key:
            at.key, at.has_key = value if value is _MERGE else _key(value), True
        else:
            at.has_key = False
            if at.key is _MERGE:
                _merge(at.value, value)
            else:
                at.value[str(at.key)] = value


_MERGE = object()
"""The key ``<<``."""


def _merge(into: dict[str, Any], value: object) -> None:
    """Merge as ``<<`` does: the first mapping of a list goes before the others.

    Raises:
        NotYamlError: It isn't used with a mapping.
    """
    for mapping in reversed(value) if isinstance(value, list) else (value,):
        if not isinstance(mapping, dict):
            raise NotYamlError("not YAML: << without a mapping")
        into.update(mapping)


def _key(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise NotYamlError("has a key that is not text")


def _scalar(text: str, tag: str | None, *, is_plain: bool) -> object:
    name = (tag or "").removeprefix(_TAG)
    if tag is None:
        value = _plain(text) if is_plain else text
    elif name == "binary":
        try:
            value = base64.b64decode("".join(text.split()), validate=True).decode(
                "utf-8", "replace"
            )
        except (binascii.Error, ValueError):
            raise NotYamlError("not YAML: !!binary that is not base64") from None
    elif name in {"bool", "int", "float", "null"}:
        value = _tagged(text, name)
    else:
        value = text
    if isinstance(value, float) and not math.isfinite(value):
        raise NotYamlError("has a number that JSON can't hold")
    return value


def _tagged(text: str, name: str) -> object:
    value = _plain(text)
    is_float = isinstance(value, float) or (isinstance(value, int) and not isinstance(value, bool))
    right = {
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": is_float,
        "null": value is None,
    }
    if not right[name]:
        raise NotYamlError(f"not YAML: !!{name} before another kind of value")
    return value


def _plain(text: str) -> object:
    """The value of text without quotes."""
    if text in _WORDS:
        return _WORDS[text]
    if text[0] == ".":
        return float(text) if _FLOAT.fullmatch(text) else text
    if text[0] not in "+-0123456789":
        return text
    digits = text.replace("_", "")
    if found := _INTEGER.fullmatch(digits):
        sign, *bases = found.groups()
        (number,) = (
            int(part, base) for part, base in zip(bases, (16, 8, 2, 10), strict=True) if part
        )
        number = -number if sign == "-" else number
        if _INT64_MIN <= number <= _UINT64_MAX:
            return number
    decimal = float(digits) if _FLOAT.fullmatch(digits) else math.inf
    return decimal if math.isfinite(decimal) else text
