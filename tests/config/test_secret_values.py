"""A credential in a configuration file, in the wrong place or form: no message shows it."""

import pytest

from telemetryd.config import Config, ConfigFile, ConfigSource, parse_config
from telemetryd.config.diff import diff_configs, render_changes
from telemetryd.errors import ConfigError
from telemetryd.kube.kubeconfig import choose

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
