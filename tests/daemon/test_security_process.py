"""A running daemon's TLS, clients and tokens: files renewed, the file reloaded, the commands."""

import http.client
import json
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.test_commands import telemetryd
from tests.serve.guarded import SecretVolume, client_side, der
from tests.support.certificates import Authority, Pair
from tests.support.daemon import Daemon

TOKEN = "s3cret.of.prometheus"
EXPORTERS = "exporters = []\n"
RENEWED_WITHIN_S = 30.0


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "server-ca")


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """Nobody listens there."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
        "clusters": [{"name": "x", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "x", "user": {"token": "x"}}],
    }
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(document))
    return path


def keys(pair: Pair, *more: str) -> str:
    """Lines of ``[server]``, which the configuration ends with."""
    return "\n".join((f'tls_cert_file = "{pair.cert}"', f'tls_key_file = "{pair.key}"', *more))


@contextmanager
def running(
    folder: Path, kubeconfig: Path, server: str, *, fresh: bool = False
) -> Iterator[Daemon]:
    top_level = f'log_level = "debug"\nlog_format = "json"\n{EXPORTERS}'
    daemon = Daemon(folder, kubeconfig, server, top_level, fresh=fresh)
    try:
        daemon.wait_for("it listens", lambda: '"message":"started"' in daemon.log(), 20)
        yield daemon
    finally:
        status = daemon.stop()
    assert status == 0, daemon.log()[-4000:]
    assert "Traceback" not in daemon.log()


def get(
    daemon: Daemon, path: str, context: ssl.SSLContext | None = None, token: str | None = None
) -> int:
    """The status, 0 where there is no answer."""
    connection: http.client.HTTPConnection
    if context is None:
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=30)
    else:
        connection = http.client.HTTPSConnection(
            "127.0.0.1", daemon.port, timeout=30, context=context
        )
    try:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def shown(daemon: Daemon) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", daemon.port)))


def command(daemon: Daemon, *arguments: str) -> "subprocess.CompletedProcess[str]":
    folder = str(daemon.config_file.parent)
    config = str(daemon.config_file)
    return telemetryd(
        *arguments, "--config", config, STATE_DIRECTORY=folder, RUNTIME_DIRECTORY=folder
    )


def test_certificate_is_replaced_under_the_running_daemon(
    authority: Authority, kubeconfig: Path, tmp_path: Path
) -> None:
    first, second = authority.issue("first"), authority.issue("second")
    volume = SecretVolume(tmp_path / "volume", first)
    trusting = client_side(authority.ca)
    with running(tmp_path, kubeconfig, keys(volume.pair)) as daemon:
        kept = http.client.HTTPSConnection("127.0.0.1", daemon.port, timeout=30, context=trusting)
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b"ok\n"
        assert shown(daemon) == der(first)
        volume.swap(Pair(second.cert, first.key))  # no pair: as by a writer that isn't done
        daemon.wait_for(
            "a log line",
            lambda: "keeping the old ones" in daemon.log(),
            RENEWED_WITHIN_S,
        )
        assert shown(daemon) == der(first)
        assert get(daemon, "/metrics", trusting) == 200
        volume.swap(second)
        daemon.wait_for("it is shown", lambda: shown(daemon) == der(second), RENEWED_WITHIN_S)
        kept.request("GET", "/livez")
        assert kept.getresponse().read() == b"ok\n", "the connection of the start goes on"
        kept.close()
    lines = [line for line in daemon.log().splitlines() if "keeping the old ones" in line]
    assert "key values mismatch" in lines[0]
    assert daemon.log().count("certificates reloaded") == 1


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        ("missing", "server.tls_cert_file: the file can't be read (No such file or directory)"),
        (
            "mismatch",
            "can't be loaded (key values mismatch): give PEM of a certificate and its own",
        ),
        ("expired", "server.tls_cert_file: {}/late.crt has expired on "),
    ],
)
def test_start_with_unusable_files_exits_78_and_names_them(
    authority: Authority, kubeconfig: Path, tmp_path: Path, which: str, expected: str
) -> None:
    good = authority.issue("good")
    pair = {
        "missing": lambda: Pair(tmp_path / "none.crt", good.key),
        "mismatch": lambda: Pair(good.cert, authority.issue("other").key),
        "expired": lambda: authority.issue("late", days=-1),
    }[which]()
    config = tmp_path / "config.toml"
    config.write_text(
        f'[kubernetes]\nkubeconfig = "{kubeconfig}"\n[server]\nlisten = "127.0.0.1:0"\n{keys(pair)}'
    )
    done = telemetryd("run", "--config", str(config), RUNTIME_DIRECTORY=str(tmp_path))
    assert done.returncode == 78
    assert expected.format(tmp_path) in done.stderr
    assert re.search(rf"{config}:\d+: server.tls_cert_file", done.stderr)
    assert "Traceback" not in done.stderr


def test_reload_changes_who_may_look_and_a_bad_file_changes_nothing(
    authority: Authority, kubeconfig: Path, tmp_path: Path
) -> None:
    pair = authority.issue("server")
    clients = Authority(tmp_path, "client-ca")
    trusting, known = (
        client_side(authority.ca),
        client_side(authority.ca, clients.issue("prometheus")),
    )
    top_level = f'log_level = "debug"\nlog_format = "json"\n{EXPORTERS}'

    def reload(server: str) -> "subprocess.CompletedProcess[str]":
        daemon.configure(server, top_level)
        return command(daemon, "ctl", "reload")

    with running(tmp_path, kubeconfig, "") as daemon:
        assert get(daemon, "/metrics") == 200
        done = reload(keys(pair))
        assert done.returncode == 0, done.stderr
        assert "server.tls_cert_file changed" in done.stdout
        assert get(daemon, "/metrics") == 0
        assert get(daemon, "/metrics", trusting) == 200
        done = reload(keys(pair, f'client_ca_file = "{clients.ca}"'))
        assert done.returncode == 0, done.stderr
        assert [get(daemon, "/metrics", each) for each in (trusting, known)] == [401, 200]
        assert get(daemon, "/livez", trusting) == 200

        broken = tmp_path / "broken.crt"
        broken.write_text("no certificate")
        for server, complaint in (
            (keys(Pair(broken, pair.key)), f"server.tls_cert_file: {broken} and "),
            (keys(pair, f'client_ca_file = "{broken}"'), f"server.client_ca_file: {broken} can't"),
            (f'tls_cert_file = "{pair.cert}"', "server.tls_cert_file: is a certificate without"),
            (f'tls_key_file = "{pair.key}"', "server.tls_key_file: is the key of no certificate"),
            (f'client_ca_file = "{pair.cert}"', "server.client_ca_file: has no meaning on plain"),
        ):
            done = reload(server)
            assert done.returncode == 1, server
            assert complaint in done.stderr
            assert [get(daemon, "/metrics", each) for each in (trusting, known)] == [401, 200]

        done = reload(keys(pair, "kubernetes_auth = true"))
        assert done.returncode == 0, done.stderr
        assert [get(daemon, "/metrics", each) for each in (trusting, known)] == [401, 401]
        assert reload("").returncode == 0
        assert get(daemon, "/metrics") == 200


@pytest.mark.long
def test_tokens_let_no_one_in_while_the_api_server_is_away(
    authority: Authority, kubeconfig: Path, tmp_path: Path
) -> None:
    trusting = client_side(authority.ca)
    server = keys(authority.issue("server"), "kubernetes_auth = true")
    with running(tmp_path, kubeconfig, server) as daemon:
        assert get(daemon, "/metrics", trusting) == 401
        for path in ("/", "/metrics", "/status.json", "/payload/scc"):
            assert get(daemon, path, trusting, TOKEN) == 503, path
        for path in ("/livez", "/healthz"):
            assert get(daemon, path, trusting) == 200, path
        assert get(daemon, "/readyz", trusting) == 503, "not synced yet, and not 401"
        warned = [line for line in daemon.whole_log().splitlines() if "token review failed" in line]
        assert len([line for line in warned if re.search('"level": ?"warning"', line)]) == 1
    assert TOKEN not in daemon.log()


def test_commands_find_a_daemon_that_serves_tls_and_asks_for_certificates(
    authority: Authority, kubeconfig: Path, tmp_path: Path
) -> None:
    pair = authority.issue("server", days=1)
    server = keys(pair, f'client_ca_file = "{authority.ca}"')
    with running(tmp_path, kubeconfig, server) as daemon:
        healthy = command(daemon, "healthcheck")
        assert (healthy.returncode, healthy.stderr) == (0, "")
        examined = command(daemon, "doctor").stdout
        assert (
            f"PASS  listen address  127.0.0.1:{daemon.port} is held by a running telemetryd"
            in examined
        )
        assert f"WARN  server certificate  {pair.cert} is valid for 23h more; renew it" in examined
        daemon.signal(signal.SIGSTOP)
        try:
            hanging = command(daemon, "healthcheck")
        finally:
            daemon.signal(signal.SIGCONT)
        assert hanging.returncode == 1
        assert "no answer from 127.0.0.1" in hanging.stderr
        shutil.copy(authority.issue("other").key, pair.key)
        examined = command(daemon, "doctor").stdout
        assert "FAIL  server.tls_cert_file" in examined
        assert "key values mismatch" in examined
