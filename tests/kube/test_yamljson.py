"""YAML is read as client-go reads it; each expectation was compared with client-go 0.37."""

from typing import Any

import pytest
import yaml

from telemetryd.kube import yamljson
from telemetryd.kube.yamljson import MAX_DEPTH, NotYamlError, load_first_document


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2024-01-01", "2024-01-01"),
        ("2001-1-1 1:1:1", "2001-1-1 1:1:1"),
        ("5:6", "5:6"),
        ("1.5.5", "1.5.5"),
        ("0x1g", "0x1g"),
        ("0b2", "0b2"),
        ("_1", "_1"),
        ("1e999", "1e999"),
        ("-x", "-x"),
        ("=", "="),
        ("'5'", "5"),
        ("!!str yes", "yes"),
        ("!other 5", "5"),
        ("!!binary aGk=", "hi"),
        ("y", True),
        ("Yes", True),
        ("on", True),
        ("n", False),
        ("OFF", False),
        ("~", None),
        ("", None),
        ("Null", None),
        ("5", 5),
        ("1_0", 10),
        ("0777", 511),
        ("0o17", 15),
        ("0x1F", 31),
        ("-0b11", -3),
        ("09", 9.0),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("!!float 5", 5),
    ],
)
def test_value_without_quotes_means_what_it_does_for_client_go(text: str, value: object) -> None:
    loaded: Any = load_first_document(f"a: {text}\n".encode())
    assert loaded == {"a": value}
    assert type(loaded["a"]) is type(value)


@pytest.mark.parametrize(
    ("content", "value"),
    [
        ("", None),
        ("# nothing\n", None),
        ("---\n---\na: 1\n", None),
        ("a: 1\n---\n", {"a": 1}),
        ("a: 1\n---\nb: [\n", {"a": 1}),
        ("--- # first\na: 1\n...\n}{\n", {"a": 1}),
        ("a: 1\na: 2\n", {"a": 2}),
        ("x: &x {a: 1, b: 2}\nz: {<<: *x, b: 3}\n", {"x": {"a": 1, "b": 2}, "z": {"a": 1, "b": 3}}),
        ("x: &x {a: 1}\nz: [*x, *x]\n", {"x": {"a": 1}, "z": [{"a": 1}, {"a": 1}]}),
        ("1: a\ntrue: b\n", {"1": "a", "true": "b"}),
        ('{"a": [1, null, "x"]}', {"a": [1, None, "x"]}),
    ],
)
def test_first_document_counts(content: str, value: object) -> None:
    assert load_first_document(content.encode()) == value
    assert load_first_document(content.encode("utf-16")) == value


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a: [SENTINEL", "not YAML (line 2)"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"a: \x01", "not YAML"),
        (b"a: &a [*a]", "an alias without its anchor (line 1)"),
        (b"a: *b", "an alias without its anchor"),
        (b"? [a]\n: b", "a key that is not text"),
        (b"~: b", "a key that is not text"),
        (b"<<: 5", "<< without a mapping"),
        (b"a: .inf", "JSON can't hold"),
        (b"a: !!int x", "!!int before another kind"),
        (b"a: !!binary '%'", "not base64"),
        (b"%YAML 1.2\n---\na: 1", "not YAML 1.1"),
        (b"[" * 100_000, f"nested more than {MAX_DEPTH} deep"),
        (b"- " * 100_000, f"nested more than {MAX_DEPTH} deep"),
    ],
)
def test_what_client_go_does_not_read_is_one_error_without_the_content(
    content: bytes, says: str
) -> None:
    with pytest.raises(NotYamlError) as caught:
        load_first_document(content)
    assert says in str(caught.value)
    assert "SENTINEL" not in str(caught.value)


def test_aliases_that_multiply_are_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    with pytest.raises(NotYamlError, match="more than 2000000 values"):
        load_first_document("\n".join(lines).encode())


def test_python_only_loader_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a: &x {b: 2024-01-01, c: y}\nd: [*x, '5', 5]\n---\n"
    expected = load_first_document(content)
    monkeypatch.setattr(yamljson, "_LOADER", yaml.SafeLoader)
    assert load_first_document(content) == expected
