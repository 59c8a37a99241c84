"""Configuration files that a hand, a template or a bad disk may make."""

from typing import Any, Final

from hypothesis import strategies as st

from telemetryd.config.exporters import EXPORTER_TYPES
from telemetryd.config.schema import Key, Table, Variants, keys_of
from telemetryd.config.settings import Config

_RIGHT = st.sampled_from([
    '"60s"', '"1h30m"', '"auto"', '"info"', "true", "false", "1", "500", "0.25", '"10MiB"',
    '"keep"', '"omit"', '"scc"', '"fleet"', '"/var/lib/x"', '"https://example.com"',
    '"127.0.0.1:0"', '"name"', '"6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d"', '"secret"', '"file"',
    '"http"', '"otlp"',
])  # fmt: skip
_WRONG = st.sampled_from([
    '"-1s"', '"1"', '"1e9s"', '"99999999999999999999h"', '"1h1h"', '"s"', '"0s"', '"1d"', '" 60s"',
    '"60S"', '"\u0661\u0662s"', '"1h \\u0000"', '"NaN"', '"infs"', '"1.5h"',
    '"' + "9" * 3000 + 's"', '"-1MiB"', '"1e3KiB"', '"99999999999999999999TiB"', '"10mib"',
    '"\u0661MiB"', '"10 MiB"', "9" * 400, "-" + "9" * 400, "0x" + "f" * 300, "9" * 5000, "inf",
    "-inf", "nan", "1e999", "-0.0", "1_000", "0b1", "0o7", "1979-05-27", "1979-05-27T07:32:00Z",
    "07:32:00", "0001-01-01", "24:00:00", "9999-12-31T23:59:59.999999-23:59", "1979-13-27", "[]",
    "[[]]", "[1, 'a', {}]", "{}", "{a.b.c=1}", "{a={b={c={}}}}", "[" * 60 + "]" * 60, "[" * 2000,
    "'''\nlong\n'''", '"""\\\n   x"""', "''", '""', '"\\ud800"', '"\\U0010ffff"', '"\\u202e"',
    '"\\u001b[31m"', '"a\\nb"', '"' + "x" * 5000 + '"', '"\U0001f600"', '"\u0130"',
    '"' + "a." * 2000 + '"', '":99999"', '"[::1"', '"[::1%lo]:1"', '"[fe80::1%"', '"256.1.1.1:1"',
    '"0x7f.1:1"', '"\u2488:1"', '"localhost.:1"', '"http://[::1"', '"http://a:99999"',
    '"http://\u2100"', '"http://a@b"', '"https://x/?y"', '"//x"', '"/a/../b"', '"relative"',
    '"/' + "p" * 5000 + '"', '"/\\u0000"', '"/proc/self/fd/0"', '"~"', '"$HOME"', "x", "=",
    '"secretrequest/x"', '"xn--\u00fc"', "nottrue", "True", "1 2", '"unended', "'", "{", "[1,", "#",
])  # fmt: skip
_ESCAPES: Final = {ord('"'): '\\"', ord("\\"): "\\\\", ord("\n"): "\\n"}
_STRINGS = st.text(max_size=30).map(lambda text: '"' + text.translate(_ESCAPES) + '"')
VALUES: Final = _RIGHT | _RIGHT | _WRONG | _STRINGS | st.integers().map(str) | st.floats().map(repr)

_ODD_KEYS = st.sampled_from([
    '""', '"a.b"', "a.b.c", '"\\u0000"', '"' + "k" * 3000 + '"', "1", "true", "-", '"\U0001f600"',
    "\u00fc", '"\\ud7ff"', '"a\\nb"', "a" * 300, "__class__", "exporters", "type", ".", "a..b",
    "server.listen", "kubernetes.kubeconfig.x", "interval_s", "'quoted'",
])  # fmt: skip


def _lines(keys: tuple[Key, ...]) -> st.SearchStrategy[str]:
    names = st.sampled_from([key.name for key in keys]) | _ODD_KEYS
    pairs = st.lists(st.tuples(names, VALUES), max_size=4)
    return pairs.map(lambda found: "".join(f"{name} = {value}\n" for name, value in found))


def _head(name: str) -> st.SearchStrategy[str]:
    return st.sampled_from([f"[{name}]", f"[{name}]", f"[[{name}]]", f"[{name}.x]", f"[ {name} ]"])


def _table(key: Key) -> st.SearchStrategy[str]:
    declarations: tuple[Any, ...]
    match key.kind:
        case Table(declaration):
            declarations, head = (declaration,), _head(key.name)
        case Variants():
            declarations, head = EXPORTER_TYPES, st.just(f"[[{key.name}]]") | _head(key.name)
        case _:
            raise TypeError(key)
    inner = st.sampled_from(declarations).flatmap(lambda found: _lines(keys_of(found)))
    kinds = st.sampled_from(["", 'type = "secret"\n', 'type = "file"\n', 'type = "http"\n'])
    named = st.sampled_from(["", 'name = "a"\n', 'name = "b"\n'])
    return st.builds("{}\n{}{}{}".format, head, named, kinds, inner)


_TOP = keys_of(Config)
_TABLES = [key for key in _TOP if isinstance(key.kind, Table | Variants)]
_PLAIN = tuple(key for key in _TOP if key not in _TABLES)

TEXTS: Final = st.builds(
    lambda top, tables: top + "\n".join(tables),
    _lines(_PLAIN) | st.just(""),
    st.lists(st.sampled_from(_TABLES).flatmap(_table), max_size=4),
)
"""Of files; most have something wrong with them."""


def spoilt(example: bytes) -> st.SearchStrategy[bytes]:
    """A valid file of which something is altered, missing, doubled or torn apart."""
    places = st.integers(0, len(example))
    return st.one_of(
        places.map(lambda at: example[:at]),
        st.tuples(places, st.binary(min_size=1, max_size=6)).map(
            lambda found: example[: found[0]] + found[1] + example[found[0] :]
        ),
        st.tuples(places, st.integers(1, 255)).map(
            lambda found: (
                example[: found[0]]
                + bytes(byte ^ found[1] for byte in example[found[0] : found[0] + 1])
                + example[found[0] + 1 :]
            )
        ),
        st.tuples(places, places).map(lambda found: example[: found[0]] + example[found[1] :]),
        places.map(lambda at: example[at:] + example[:at]),
        st.just(example.decode().encode("utf-16")),
        st.just(example.replace(b"\n", b"\r")),
        st.just(b"\xef\xbb\xbf" + example),
    )
