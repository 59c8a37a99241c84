"""`telemetryd doctor` against a real API server."""

import json
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.apiserver.admin import Admin, AdminError
from tests.apiserver.crds import SETTINGS, collection
from tests.apiserver.denials import quota, webhook
from tests.apiserver.fixtures import setting
from tests.apiserver.process import ApiServer
from tests.cli.test_commands import telemetryd, telemetryd_process
from tests.deploy.installed import ensure_namespace
from tests.doctor.test_examine import PAYLOAD
from tests.support.daemon import free_port

Command = Callable[..., "CompletedProcess[str]"]
NAMESPACE = "doctor"
SECRETS = f"/api/v1/namespaces/{NAMESPACE}/secrets"
ISSUER = "https://kubernetes.default.svc"


class Doctor:
    """Runs the command on a configuration of its own."""

    def __init__(self, apiserver: ApiServer, folder: Path) -> None:
        self._apiserver = apiserver
        self._folder = folder
        self._config = folder / "config.toml"
        self._config.write_text(
            f'state_dir = "{folder}"\n[kubernetes]\nkubeconfig = "{folder}/kubeconfig"\n'
            f'[server]\nlisten = "127.0.0.1:{free_port()}"\n'
            f'[[exporters]]\nname = "scc"\ntype = "secret"\nnamespace = "{NAMESPACE}"\n'
            f'[[exporters]]\nname = "f"\ntype = "file"\ndirectory = "{folder}/files"\n'
        )

    def ask(
        self,
        token: str | None = None,
        *,
        anonymous: bool = False,
        run: Command = telemetryd,
        arguments: tuple[str, ...] = (),
    ) -> tuple[int, list[str]]:
        """Exit status and lines of stdout."""
        kubeconfig = self._folder / "kubeconfig"
        self._apiserver.kubeconfig(kubeconfig, token)
        if anonymous:
            document = json.loads(kubeconfig.read_text())
            document["users"][0]["user"] = {}
            kubeconfig.write_text(json.dumps(document))
        command = ("doctor", "--config", str(self._config), *arguments)
        asked = run(*command, RUNTIME_DIRECTORY=str(self._folder))
        assert not asked.stderr
        assert token is None or token not in asked.stdout
        return asked.returncode, asked.stdout.splitlines()


@pytest.fixture
def doctor(apiserver: ApiServer, admin: Admin, tmp_path: Path) -> Iterator[Doctor]:
    ensure_namespace(admin, NAMESPACE)
    with suppress(AdminError):
        admin.create(collection(SETTINGS), setting("server-version-type", "prime"))
    yield Doctor(apiserver, tmp_path)
    admin.delete(f"{collection(SETTINGS)}/server-version-type")
    with suppress(AdminError):
        admin.delete(f"{SECRETS}/rancher-scc-telemetry")


def mint(apiserver: ApiServer, account: str, uid: str, expires_at: float) -> str:
    """A ServiceAccount's token as the API server itself signs it, with any time of expiry."""
    key = serialization.load_pem_private_key((apiserver._folder / "sa.key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    claims = {
        "iss": ISSUER,
        "aud": [ISSUER],
        "sub": f"system:serviceaccount:{NAMESPACE}:{account}",
        "iat": int(expires_at) - 3600,
        "nbf": int(expires_at) - 3600,
        "exp": int(expires_at),
        "kubernetes.io": {
            "namespace": NAMESPACE,
            "serviceaccount": {"name": account, "uid": uid},
        },
    }
    parts = [json.dumps(part).encode() for part in ({"alg": "RS256", "typ": "JWT"}, claims)]
    signed = b".".join(urlsafe_b64encode(part).rstrip(b"=") for part in parts)
    signature = key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    return (signed + b"." + urlsafe_b64encode(signature).rstrip(b"=")).decode()


def test_all_well_exits_0_and_every_line_is_a_pass(doctor: Doctor, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    status, lines = doctor.ask(run=telemetryd_process)
    assert status == 0, lines
    assert all(line.startswith("PASS  ") for line in lines[:-1])
    assert lines[-1] == f"{len(lines) - 1} checks: {len(lines) - 1} PASS, 0 WARN, 0 FAIL"
    assert f"PASS  directory of exporter f  {tmp_path}/files can be made" in lines
    assert sorted(path for path in tmp_path.iterdir() if path.name != "kubeconfig") == before


def test_wrong_token_exits_1(doctor: Doctor) -> None:
    status, lines = doctor.ask("nobody-has-this-token")
    assert status == 1
    assert lines[0].startswith("PASS  collection  ")
    assert lines[1].startswith("FAIL  connection  ")
    assert "doesn't accept the credential; renew the token" in lines[1]


def test_no_login_fails_in_one_line(doctor: Doctor) -> None:
    status, lines = doctor.ask(anonymous=True)
    assert status == 1
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line[:18] for line in failed] == ["FAIL  connection  "]
    assert "give the user of the kubeconfig a token" in failed[0]
    assert not any("kind: " in line for line in lines)


def test_quota_fails_the_dry_run_and_nothing_is_stored(doctor: Doctor, admin: Admin) -> None:
    status, lines = doctor.ask()
    assert status == 0, lines
    with pytest.raises(AdminError):
        admin.get(f"{SECRETS}/rancher-scc-telemetry")
    with quota(admin, NAMESPACE):
        status, lines = doctor.ask()
    assert status == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert failed.startswith(f"FAIL  dry run of Secret {NAMESPACE}/rancher-scc-telemetry  ")
    assert "exceeded quota: none, requested: secrets=1" in failed
    assert "raise the ResourceQuota" in failed


def test_webhook_fails_the_dry_run(doctor: Doctor, admin: Admin, tmp_path: Path) -> None:
    with webhook(admin, NAMESPACE, tmp_path):
        status, lines = doctor.ask()
    assert status == 1
    (failed,) = [line for line in lines if line.startswith("FAIL")]
    assert "an admission webhook denies to write it; change the webhook" in failed
    assert "ask team B first with two lines" in failed


def test_token_fails_from_when_it_has_expired(
    doctor: Doctor, apiserver: ApiServer, admin: Admin
) -> None:
    accounts = f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"
    made = admin.create(accounts, {"metadata": {"name": "brief"}})
    uid = made["metadata"]["uid"]
    try:
        status, lines = doctor.ask(mint(apiserver, "brief", uid, time.time() + 600))
        assert status == 1
        assert any(line.startswith("PASS  connection") for line in lines), "it is somebody"
        assert f"- {{kind: ServiceAccount, namespace: {NAMESPACE}, name: brief}}" in lines
        status, lines = doctor.ask(mint(apiserver, "brief", uid, time.time() - 600))
        assert status == 1
        assert "doesn't accept the credential" in lines[1]
        assert "kind: ClusterRole" not in lines
    finally:
        admin.delete(f"{accounts}/brief")


def test_second_writer_is_named(doctor: Doctor, admin: Admin) -> None:
    secret = {"metadata": {"name": "rancher-scc-telemetry"}, "data": {"payload": PAYLOAD}}
    admin.create(SECRETS, secret)  # as Rancher does, without server-side apply
    status, lines = doctor.ask()
    assert status == 1
    (line,) = [line for line in lines if line.startswith("FAIL")]
    assert line.startswith(
        f"FAIL  Secret {NAMESPACE}/rancher-scc-telemetry  data.payload was written by tests-admin "
    )
    assert line.endswith("s ago; stop the other writer, or configure another Secret")


def test_secret_that_can_not_be_written_is_named(doctor: Doctor, admin: Admin) -> None:
    secret = {"metadata": {"name": "rancher-scc-telemetry"}, "immutable": True}
    admin.create(SECRETS, secret)
    status, lines = doctor.ask()
    assert status == 1
    assert any("rancher-scc-telemetry  is immutable; delete it" in line for line in lines)
    admin.delete(f"{SECRETS}/rancher-scc-telemetry")
    admin.create(SECRETS, {"metadata": secret["metadata"], "type": "example.com/other"})
    status, lines = doctor.ask()
    assert status == 1
    assert any("has type 'example.com/other', not Opaque; delete it" in line for line in lines)


def test_exporters_that_can_not_work_fail_a_line_each_and_as_a_document(
    doctor: Doctor, tmp_path: Path
) -> None:
    port = free_port()
    with (tmp_path / "config.toml").open("a") as config:
        config.write(
            f'[[exporters]]\nname = "h"\ntype = "http"\nurl = "https://127.0.0.1:{port}/v1"\n'
            'bearer_token_file = "/nonexistent/token"\n'
            '[[exporters]]\nname = "o"\ntype = "otlp"\nendpoint = "http://collector.invalid:4318"\n'
            '[[exporters]]\nname = "off"\ntype = "http"\nurl = "https://127.0.0.1:1"\n'
            "enabled = false\n"
        )
    status, lines = doctor.ask()
    assert status == 1
    assert lines[0].startswith("WARN  collection  exporter off is off: written in ")
    failed = [line for line in lines if line.startswith("FAIL")]
    assert [line.split("  ")[1] for line in failed] == [
        "bearer_token_file of exporter h",
        "connection of exporter h",
        "name of exporter o",
    ]
    assert "can't be read (No such file or directory)" in failed[0]
    assert f"127.0.0.1:{port}: connection refused; start the receiver" in failed[1]
    assert "collector.invalid isn't known" in failed[2]
    again, written = doctor.ask(arguments=("--json",))
    assert again == 1
    document = json.loads("\n".join(written))
    assert document["failed"] is True
    assert [each["check"] for each in document["checks"] if each["grade"] == "FAIL"] == [
        line.split("  ")[1] for line in failed
    ]
    assert document["roles"] == []
