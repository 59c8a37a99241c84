"""Each kind of value: what it takes, what it makes of it, and what it says of the rest.

No message shows a credential that is in the wrong place or form.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetryd.config import Config, ConfigFile, ConfigSource, parse_config
from telemetryd.config.diff import diff_configs, render_changes
from telemetryd.config.storage import AbsolutePath, Size
from telemetryd.config.values import (
    Boolean,
    BooleanOrAuto,
    Choice,
    DnsLabel,
    DnsSubdomain,
    Duration,
    Integer,
    InvalidValue,
    Kind,
    Listen,
    ListenAddress,
    Number,
    Text,
    Url,
    Uuid,
    parse_duration,
    render_duration,
    show,
)
from telemetryd.errors import ConfigError
from telemetryd.kube.kubeconfig import choose

UUID = "6f1e1c2e-3f3b-4a53-9d5f-0d9d2a3b4c5d"
ANY_KIND: list[Kind[Any]] = [
    AbsolutePath(),
    Boolean(),
    Choice(("a", "b")),
    DnsLabel(),
    DnsSubdomain(),
    Duration(),
    Integer(1, 5),
    Listen(),
    Number(0, 1),
    Size(),
    Text("a text"),
    Url(),
    Uuid(),
]


@pytest.mark.parametrize(
    ("kind", "value", "parsed"),
    [
        (Duration(), "60s", 60.0),
        (Duration(), "5m", 300.0),
        (Duration(), "1h30m", 5400.0),
        (Duration(), "2d", 172_800.0),
        (Duration(), "1y", 31_536_000.0),
        (Duration(), "1h2m3s4ms", 3723.004),
        (Duration(minimum_s=0.1), "500ms", 0.5),
        (Duration(), "90m", 5400.0),
        (Duration(minimum_s=0), "0s", 0.0),
        (Choice(("json", "text")), "text", "text"),
        (Boolean(), True, True),
        (BooleanOrAuto(), "auto", "auto"),
        (BooleanOrAuto(), False, False),
        (Integer(1, 5), 5, 5),
        (Number(0, 0.5), 0, 0.0),
        (Number(0, 0.5), 0.5, 0.5),
        (Text("a version"), "v2.15.0 (weird, but theirs)", "v2.15.0 (weird, but theirs)"),
        (Uuid(), UUID.upper(), UUID),
        (Url(), "https://rancher.example.com", "https://rancher.example.com"),
        (Url(), "http://[::1]:8443/rancher", "http://[::1]:8443/rancher"),
        (DnsLabel(), "cattle-telemetry-system", "cattle-telemetry-system"),
        (DnsLabel(), "a" * 63, "a" * 63),
        (DnsSubdomain(), "a.b-c.1", "a.b-c.1"),
        (Listen(), "127.0.0.1:10464", ListenAddress("127.0.0.1", 10464)),
        (Listen(), "0.0.0.0:0", ListenAddress("0.0.0.0", 0)),
        (Listen(), "[::1]:10464", ListenAddress("::1", 10464)),
        (Listen(), ":10464", ListenAddress("", 10464)),
        (Listen(), "localhost:65535", ListenAddress("localhost", 65535)),
        (Listen(), "[fe80::1%eth0]:1", ListenAddress("fe80::1%eth0", 1)),
        (Listen(), "[::]:1", ListenAddress("::", 1)),
    ],
)
def test_valid_value_is_parsed(kind: Kind[Any], value: object, parsed: object) -> None:
    assert kind.parse(value) == parsed
    assert type(kind.parse(value)) is type(parsed)


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (Duration(), "60", 'has no unit: write "60s"'),
        (Duration(), 60, "must be a duration in quotes"),
        (Duration(), "-5s", "is negative: must be 1s to 1y"),
        (Duration(), "0s", "out of range: must be 1s to 1y"),
        (Duration(), "500ms", "out of range: must be 1s"),
        (Duration(), "", "isn't a duration"),
        (Duration(), "1.5h", "isn't a duration"),
        (Duration(), "30m1h", "in that order"),
        (Duration(), "5 m", "isn't a duration"),
        (Duration(), "٣s", "isn't a duration"),
        (Duration(), "1w", "units y, d, h, m, s, ms"),
        (Duration(), "1h1d", "in that order"),
        pytest.param(Duration(), "9" * 5000 + "s", "isn't a duration", id="very long"),
        (Duration(), "99999999999h", "out of range"),
        (Choice(("json", "text")), "JSON", 'one of "json", "text"; did you mean "json"?'),
        (Choice(("scc",)), "fleet", 'must be "scc"'),
        (Boolean(), "true", "must be true or false, without quotes"),
        (Boolean(), 1, "must be true or false"),
        (Integer(1, 5), 0, "from 1 to 5"),
        (Integer(1, 5), True, "whole number"),
        (Integer(1, 5), 2.0, "whole number"),
        pytest.param(Integer(1, 5), 16**5000, "more than 64 bits", id="thousands of digits"),
        (Number(0, 0.5), 0.51, "from 0 to 0.5"),
        (Number(0, 0.5), float("nan"), "from 0 to 0.5"),
        (Number(0, 0.5), float("inf"), "from 0 to 0.5"),
        (Text("a path"), "", "is empty"),
        (Text("a path"), "a\nb", "control characters"),
        (Text("a path"), "a" * 1025, "too long"),
        (Uuid(), "6f1e1c2e", "must be a UUID"),
        (Uuid(), f"{{{UUID}}}", "must be a UUID"),
        (BooleanOrAuto(), "on", 'must be "auto", or true or false'),
        (BooleanOrAuto(), 1, "is 1"),
        (Url(), "rancher.example.com", "isn't an http or https URL"),
        (Url(), "ftp://rancher.example.com", "isn't an http or https URL"),
        (Url(), "https://", "isn't an http or https URL"),
        (Url(), "https://a:99999", "isn't an http or https URL"),
        (Url(), "https://[::1", "isn't an http or https URL"),
        (Url(), "https://a b", "spaces"),
        (Url(), "https://a/?q", "credentials, a query or a fragment"),
        (DnsLabel(), "Upper", "DNS label"),
        (DnsLabel(), "a.b", "DNS label"),
        (DnsLabel(), "-a", "DNS label"),
        (DnsLabel(), "a" * 64, "DNS label"),
        (DnsLabel(), "a\n", "DNS label"),
        (DnsLabel(reserved="secretrequest/"), "secretrequest/x", "SecretRequest controller"),
        (DnsSubdomain(), "a..b", "DNS subdomain"),
        (DnsSubdomain(), ".".join(["a" * 63] * 4), "DNS subdomain"),
        (Listen(), "10464", "must be an address such as"),
        (Listen(), "::1:10464", "must be an address such as"),
        (Listen(), "[127.0.0.1]:10464", "host isn't valid"),
        (Listen(), "300.1.1.1:10464", "host isn't valid"),
        (Listen(), "[fe80::1]:10464", "needs its interface"),
        (Listen(), "[fe80::1%]:10464", "host isn't valid"),
        (Listen(), "[::1%lo]:10464", "leave %lo out"),
        (Listen(), "[::%eth0]:10464", "leave %eth0 out"),
        (Listen(), "[2001:db8::1%eth0]:10464", "leave %eth0 out"),
        (Listen(), "[ff02::1]:10464", "multicast"),
        (Listen(), "[ff02::1%eth0]:10464", "multicast"),
        (Listen(), "224.0.0.1:10464", "multicast"),
        (Listen(), "255.255.255.255:10464", "reserved"),
        (Listen(), "240.0.0.1:10464", "reserved"),
        (Listen(), "0.0.0.1:10464", "reserved"),
        (Listen(), "[::ffff:127.0.0.1]:10464", "write the IPv4 address alone: 127.0.0.1"),
        (Listen(), "a_b:10464", "host isn't valid"),
        (Listen(), "127.0.0.1:65536", "port must be 0 to 65535"),
        (Listen(), "127.0.0.1:", "must be an address such as"),
        (Listen(), "http://127.0.0.1:10464", "must be an address such as"),
    ],
)
def test_invalid_value_says_what_would_be_right(
    kind: Kind[Any], value: object, message: str
) -> None:
    with pytest.raises(InvalidValue) as raised:
        kind.parse(value)
    assert message in str(raised.value)


def test_duration_of_the_command_line_may_be_short_but_not_zero() -> None:
    assert parse_duration("500ms") == 0.5
    with pytest.raises(ValueError, match="out of range"):
        parse_duration("0s")


def test_url_with_credentials_isnt_shown() -> None:
    with pytest.raises(InvalidValue) as raised:
        Url().parse("https://admin:hunter2@rancher.example.com")
    assert "hunter2" not in str(raised.value)


@given(
    st.sampled_from(ANY_KIND),
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(),
        st.lists(st.text()),
        st.dictionaries(st.text(), st.integers()),
        st.datetimes(),
    ),
)
def test_any_value_is_parsed_or_refused_in_one_printable_line(
    kind: Kind[Any], value: object
) -> None:
    message = ""
    try:
        kind.parse(value)
    except InvalidValue as invalid:
        message = str(invalid)
    assert message.isprintable()


@given(st.integers(0, 10**9))
def test_rendered_duration_parses_to_itself(milliseconds: int) -> None:
    text = render_duration(milliseconds / 1000)
    assert Duration(minimum_s=0).parse(text) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (86_400.0, "24h"),
        (400 * 86_400.0, "400d"),
        (5 * 365 * 86_400.0, "5y"),
        (365.5 * 86_400.0, "365d12h"),
    ],
)
def test_rendered_duration_has_days_and_whole_years_where_it_is_long(
    seconds: float, text: str
) -> None:
    assert render_duration(seconds) == text


@given(st.text())
def test_shown_text_is_short_and_printable(text: str) -> None:
    assert show(text).isprintable()
    assert len(show("x" * 10_000)) < 100


SECRET = "ghp_S3cretOfSomebody42"


PEM = f"-----BEGIN PRIVATE KEY-----{SECRET}-----END PRIVATE KEY-----"


EXPORTER = '[[exporters]]\nname = "x"\ntype = "http"\nurl = "https://receiver.example/in"\n'


KEYS = {
    EXPORTER: (
        "bearer_token_file",
        "headers_file",
        "ca_file",
        "client_cert_file",
        "client_key_file",
    ),
    "[server]\n": ("tls_cert_file", "tls_key_file", "client_ca_file"),
}


VALUES = {
    "token": f'"{SECRET}"',
    "header": f'"Bearer {SECRET}"',
    "relative path": f'"../{SECRET}"',
    "path with dots": f'"/a/../{SECRET}"',
    "home": f'"~/{SECRET}"',
    "URL": f'"file:///{SECRET}"',
    "long": f'"{SECRET * 300}"',
    "long path": f'"/{SECRET * 300}"',
    "PEM on one line": f'"{PEM}"',
    "PEM": f'"""{PEM[:27]}\n{SECRET}\n-----END PRIVATE KEY-----"""',
    "control character": f'"{SECRET}\\u0007"',
    "number": "8675309867530986753",
    "list": f'["{SECRET}"]',
    "table": f'{{value = "{SECRET}"}}',
    "without quotes": SECRET,
    "without its end": f'"{SECRET}',
    "bad escape": f'"{SECRET}\\q"',
}


def complaint(text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        parse_config(text, "c.toml", {})
    return str(raised.value)


def is_shown(said: str) -> bool:
    """Whether any piece of a secret is there."""
    return any(SECRET[start : start + 6] in said for start in range(4, 16)) or "867530" in said


@pytest.mark.parametrize("word", ["a", "must be", "an", "path"])
def test_word_of_the_message_in_place_of_a_file_leaves_the_message_whole(word: str) -> None:
    said = complaint(f'{EXPORTER}bearer_token_file = "{word}"\n')
    assert "bearer_token_file: must be an absolute path such as" in said


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
@pytest.mark.parametrize(("table", "key"), [(table, key) for table in KEYS for key in KEYS[table]])
def test_credential_in_place_of_its_file_is_not_shown(table: str, key: str, value: str) -> None:
    said = complaint(f"{table}{key} = {value}\n")
    assert not is_shown(said)
    assert "c.toml" in said


@pytest.mark.parametrize(
    "line",
    [
        f'url = "https://user:{SECRET}@receiver.example/in"',
        f'url = "https://receiver.example/in?token={SECRET}"',
        f'url = "https://receiver.example/in#{SECRET}"',
        f'url = "https://receiver.example:{SECRET}/in"',
        f'url = "{SECRET}"',
        f'url = ["https://receiver.example/{SECRET}"]',
        "url = 8675309867530986753",
        f'bearer_token = "{SECRET}"',
        f'headers = {{Authorization = "Bearer {SECRET}"}}',
        f'bearer_token_file.{SECRET} = "x"\n"bearer_token_file"."{SECRET}" = "y"',
        f'bearer_token_file = "/t"\nbearer_token_file = "{SECRET}"',
        f"bearer_token_file = '/t'\n[exporters.bearer_token_file.{SECRET}]",
    ],
)
def test_credential_in_another_place_is_not_shown(line: str) -> None:
    assert not is_shown(complaint(f'[[exporters]]\nname = "x"\ntype = "http"\n{line}\n'))


def test_url_that_two_exporters_share_is_not_shown() -> None:
    tables = (
        f'[[exporters]]\nname = "{name}"\ntype = "http"\nurl = "https://hooks.example/{SECRET}"\n'
        for name in "ab"
    )
    said = complaint("".join(tables))
    assert "exporters.b.url: is the URL of exporters.a too" in said
    assert not is_shown(said)


def test_change_of_a_file_is_named_without_its_value() -> None:
    def parse(text: str) -> Config:
        return ConfigSource(None, {}).parse_as_written(ConfigFile("t.toml", text))

    server = f'[server]\ntls_cert_file = "/{SECRET}"\ntls_key_file = "/{SECRET}"\n'
    exporter = f'{EXPORTER}bearer_token_file = "/{SECRET}"\n'
    lines = render_changes(diff_configs(parse(EXPORTER), parse(server + exporter)))
    assert lines == (
        "server.tls_cert_file changed",
        "server.tls_key_file changed",
        "exporter x replaced (bearer_token_file)",
    )


@pytest.mark.parametrize("path", [SECRET, f"/{SECRET}", SECRET * 300, f"{{users: {SECRET}}}"])
def test_credential_in_place_of_a_kubeconfig_is_not_shown(path: str) -> None:
    with pytest.raises(ConfigError) as raised:
        choose([path], None)
    assert not is_shown(str(raised.value))
    assert "kubernetes.kubeconfig" in str(raised.value)
