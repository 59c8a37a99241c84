"""On which line a key stands, in any valid TOML."""

import tomllib
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from telemetryd.config.lines import Path, find_lines, line_of

TEXT = '''\
# a comment with [brackets] and "quotes
log_level = "info"  # [not.a.table]
"odd \\"key\\"" = 1
text = """
[server]
listen = "x"
"""
raw = \'\'\'
[server]\'\'\'
list = [
  1, # ]
  { a = "]" },
]
a.b . 'c' = 1

[ server ]
listen = ":1"
[server.tls]
file = "/x"
[[exporters]]
name = "a"
[[exporters]]
name = "b"
  [exporters.more]
  key = 1
'''


def test_each_key_and_table_has_its_line() -> None:
    tomllib.loads(TEXT)
    assert find_lines(TEXT) == {
        ("log_level",): 2,
        ('odd "key"',): 3,
        ("text",): 4,
        ("raw",): 8,
        ("list",): 10,
        ("a", "b", "c"): 14,
        ("server",): 16,
        ("server", "listen"): 17,
        ("server", "tls"): 18,
        ("server", "tls", "file"): 19,
        ("exporters", 0): 20,
        ("exporters", 0, "name"): 21,
        ("exporters", 1): 22,
        ("exporters", 1, "name"): 23,
        ("exporters", 1, "more"): 24,
        ("exporters", 1, "more", "key"): 25,
    }


def test_windows_line_ends_count_once() -> None:
    assert find_lines("a = 1\r\n\r\n[b]\r\nc = 1\r\n") == {("a",): 1, ("b",): 3, ("b", "c"): 4}


def test_missing_key_has_the_line_of_its_table() -> None:
    lines = find_lines(TEXT)
    assert line_of(("exporters", 1, "url"), lines) == 22
    assert line_of(("list", "of", "list"), lines) == 10
    assert line_of(("kubernetes", "source"), lines) == 0


KEYS = st.sampled_from(["a", "b-c", '"d e"', "'f'", "g.h"])
VALUES = st.sampled_from(
    [
        "1",
        '"x"',
        '"""\n[t]\n"""',
        "'''\n\n'''",
        "[\n1,\n# ]\n2]",
        "{}",
        '"#"',
        "'\"'",
        '""',
        "''''''",
    ]
)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(KEYS, VALUES, st.sampled_from(["", " # c", "\n\n"])), unique_by=lambda x: x[0]
    )
)
def test_lines_are_where_the_key_is_written(keys: list[tuple[str, str, str]]) -> None:
    text, expected = "", {}
    for name, value, after in keys:
        path = tuple(part.strip("\"'") for part in name.split("."))
        expected[path] = text.count("\n") + 1
        text += f"{name} = {value}{after}\n"
    tomllib.loads(text)
    assert find_lines(text) == expected


@settings(deadline=None)
@given(st.text(alphabet="ab=[]{}\"'#\n. \\"))
def test_any_text_is_taken(text: str) -> None:
    found: dict[Path, int] = find_lines(text)
    for path, line in found.items():
        assert path
        assert 1 <= line <= text.count("\n") + 1


def test_all_keys_of_valid_toml_are_found() -> None:
    def paths(table: dict[str, Any], at: Path = ()) -> set[Path]:
        found: set[Path] = set()
        for name, value in table.items():
            match value:
                case dict():
                    found |= paths(value, (*at, name))
                case [{**_first}, *_] if name == "exporters":
                    for index, each in enumerate(value):
                        found |= paths(each, (*at, name, index))
                case _:
                    found.add((*at, name))
        return found

    assert paths(tomllib.loads(TEXT)) <= find_lines(TEXT).keys()
