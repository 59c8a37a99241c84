"""Exec plugins: what they are asked, what they print, when they are refused."""

import json
from typing import Any, Final

from tests.clientgo.table import Case

_GROUP: Final = "client.authentication.k8s.io"
_V1: Final = f"{_GROUP}/v1"
_BETA: Final = f"{_GROUP}/v1beta1"
_ALPHA: Final = f"{_GROUP}/v1alpha1"
_TOKEN: Final = {"token": "granted"}
_PAIR: Final = {"clientCertificateData": "@json:client.crt@", "clientKeyData": "@json:client.key@"}


def _printed(status: Any, version: str = _V1, kind: str = "ExecCredential", **more: Any) -> str:
    """What a plugin prints."""
    return json.dumps({"apiVersion": version, "kind": kind, "status": status, **more})


def _script(output: str, *lines: str) -> str:
    return "\n".join(["#!/bin/sh", *lines, "cat <<'END'", output, "END", ""])


def _case(
    name: str,
    script: str | None = None,
    *,
    cluster: Any = None,
    files: Any = None,
    env: Any = None,
    user: Any = None,
    answers: Any = None,
    **plugin: Any,
) -> Case:
    """A plugin `v1` that never asks and prints a token, but for what is given."""
    body = {"apiVersion": _V1, "command": "@dir@/plugin", "interactiveMode": "Never", **plugin}
    return Case(
        f"exec: {name}",
        cluster=cluster or {},
        user={**(user or {}), "exec": {k: v for k, v in body.items() if v is not ...}},
        files={"plugin": script or _script(_printed(_TOKEN)), **(files or {})},
        env=env or {},
        answers=answers or {},
    )


# The token shows what the plugin was given, so that the API server sees it.
_TOLD: Final = """#!/bin/sh
printf '{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential",
  "status": {"token": "%s"}}' \
  "$(%s | base64 -w0 | tr -d '=')"
"""


def _told(command: str) -> str:
    return _TOLD.replace("$(%s", f"$({command}")


_SEEN: Final = (
    "python3 -c 'import json,os;"
    'i=json.loads(os.environ["KUBERNETES_EXEC_INFO"]);'
    'print(json.dumps(i,sort_keys=True).replace("@b64:ca.crt@","the CA"))'
    "'"
)
"""Prints what it gets, without what differs from run to run."""
_CERTIFICATE: Final = _printed(_PAIR)
_YAML: Final = f"apiVersion: {_V1}\nkind: ExecCredential\nstatus:\n  token: granted"
_CLUSTER_EXTENSION: Final = {
    "extensions": [{"name": f"{_GROUP}/exec", "extension": {"audience": "a", "n": 1}}]
}

CASES: Final = (
    _case("v1"),
    _case("v1 without interactiveMode", interactiveMode=...),
    _case("v1 IfAvailable", interactiveMode="IfAvailable"),
    _case("v1 Always", interactiveMode="Always"),
    _case("v1 unknown mode", interactiveMode="Sometimes"),
    _case("v1 empty mode", interactiveMode=""),
    _case("v1 mode in small letters", interactiveMode="never"),
    _case("v1beta1", _script(_printed(_TOKEN, _BETA)), apiVersion=_BETA),
    _case(
        "v1beta1 without interactiveMode",
        _script(_printed(_TOKEN, _BETA)),
        apiVersion=_BETA,
        interactiveMode=...,
    ),
    _case(
        "v1beta1 Always",
        _script(_printed(_TOKEN, _BETA)),
        apiVersion=_BETA,
        interactiveMode="Always",
    ),
    _case(
        "v1beta1 unknown mode",
        _script(_printed(_TOKEN, _BETA)),
        apiVersion=_BETA,
        interactiveMode="Sometimes",
    ),
    _case("v1alpha1", _script(_printed(_TOKEN, _ALPHA)), apiVersion=_ALPHA, interactiveMode=...),
    _case("unknown version", apiVersion=f"{_GROUP}/v2"),
    _case("version without its group", apiVersion="v1"),
    _case("no version", apiVersion=...),
    _case("no command", command=...),
    _case("empty command", command=""),
    _case("command not there", command="/no/such"),
    _case("command not there, with a hint", command="/no/such", installHint="install it"),
    _case(
        "command of PATH",
        command="granting",
        env={"PATH": "@dir@/bin:/usr/bin:/bin"},
        files={"bin/granting": _script(_printed(_TOKEN))},
    ),
    _case("command of PATH that isn't there", command="granting"),
    _case("command relative", command="./plugin"),
    _case(
        "command relative, in a folder",
        command="bin/granting",
        files={"bin/granting": _script(_printed(_TOKEN))},
    ),
    _case("command in the kubeconfig's folder, bare", command="plugin"),
    _case("command that can't be run", files={"plain": "text"}, command="@dir@/plain"),
    _case("command a folder", command="@dir@"),
    _case("command with arguments in it", command="@dir@/plugin arg"),
    _case("args", _told('printf %s "$*"'), args=["a b", "", "$HOME"]),
    _case("args null", args=None),
    _case("args of numbers", args=[1]),
    _case("args a text", args="a"),
    Case(
        "exec: env",
        user={
            "exec": {
                "apiVersion": _V1,
                "command": "@dir@/plugin",
                "interactiveMode": "Never",
                "env": [{"name": "A", "value": "b c"}],
            }
        },
        files={"plugin": _told('printf %s "$A"')},
    ),
    *(
        Case(
            f"exec: env {name}",
            user={
                "exec": {
                    "apiVersion": _V1,
                    "command": "@dir@/plugin",
                    "interactiveMode": "Never",
                    "env": env,
                }
            },
            files={"plugin": _script(_printed(_TOKEN))},
        )
        for name, env in (
            ("null", None),
            ("without a name", [{"value": "b"}]),
            ("with an empty name", [{"name": "", "value": "b"}]),
            ("without a value", [{"name": "A"}]),
            ("with a number", [{"name": "A", "value": 1}]),
            ("a mapping", {"A": "b"}),
            ("of null", [None]),
        )
    ),
    _case("environment is passed on", _told('printf %s "$MARK"'), env={"MARK": "seen"}),
    _case("KUBERNETES_EXEC_INFO", _told(_SEEN)),
    _case("KUBERNETES_EXEC_INFO v1beta1", _told(_SEEN).replace(_V1, _BETA), apiVersion=_BETA),
    _case("KUBERNETES_EXEC_INFO IfAvailable", _told(_SEEN), interactiveMode="IfAvailable"),
    _case(
        "provideClusterInfo",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={"server": "https://api.example.test:6443"},
    ),
    _case("provideClusterInfo false", _told(_SEEN), provideClusterInfo=False),
    _case("provideClusterInfo of text", provideClusterInfo="true"),
    _case(
        "provideClusterInfo v1beta1",
        _told(_SEEN).replace(_V1, _BETA),
        apiVersion=_BETA,
        provideClusterInfo=True,
        cluster={"server": "https://api.example.test"},
    ),
    _case(
        "provideClusterInfo with everything",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={
            "server": "https://10.0.0.1:6443/path",
            "tls-server-name": "kubernetes",
            "proxy-url": "http://proxy.test:3128",
            **_CLUSTER_EXTENSION,
        },
    ),
    _case(
        "provideClusterInfo with a CA file",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={
            "server": "https://api.example.test",
            "certificate-authority-data": None,
            "certificate-authority": "@file:ca.crt@",
        },
    ),
    _case(
        "provideClusterInfo unchecked",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={
            "server": "https://api.example.test",
            "certificate-authority-data": None,
            "insecure-skip-tls-verify": True,
        },
    ),
    _case(
        "provideClusterInfo with a proxy of the environment",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={"server": "https://api.example.test"},
        env={"HTTPS_PROXY": "http://proxy.test:3128"},
    ),
    _case(
        "provideClusterInfo with an extension of another name",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={
            "server": "https://api.example.test",
            "extensions": [{"name": "other", "extension": {"a": 1}}],
        },
    ),
    _case(
        "provideClusterInfo without TLS",
        _told(_SEEN),
        provideClusterInfo=True,
        cluster={"server": "http://api.example.test", "certificate-authority-data": None},
    ),
    _case("prints YAML", _script(_YAML)),
    _case("prints YAML with a document marker", _script("---\n" + _YAML)),
    _case("prints nothing", "#!/bin/sh\n"),
    _case("prints garbage", "#!/bin/sh\necho hello\n"),
    _case("prints a list", "#!/bin/sh\necho []\n"),
    _case("prints null", "#!/bin/sh\necho null\n"),
    _case(
        "prints text around", "#!/bin/sh\necho hello\ncat <<'END'\n" + _printed(_TOKEN) + "\nEND\n"
    ),
    _case(
        "prints it twice",
        "#!/bin/sh\ncat <<'END'\n" + _printed(_TOKEN) + "\n" + _printed(_TOKEN) + "\nEND\n",
    ),
    _case("prints text on the error stream", _script(_printed(_TOKEN), "echo hello >&2")),
    _case(
        "prints 2 MB on the error stream",
        _script(_printed(_TOKEN), "head -c 2000000 /dev/zero | tr '\\0' x >&2"),
    ),
    _case("prints a BOM", _script("\ufeff" + _printed(_TOKEN))),
    _case("ends with status 1", _script(_printed(_TOKEN), "exit 1")),
    _case("ends with status 1 after printing", _script(_printed(_TOKEN)) + "exit 1\n"),
    _case("killed", "#!/bin/sh\nkill -9 $$\n"),
    _case("another kind", _script(_printed(_TOKEN, kind="Other"))),
    _case("no kind", _script(json.dumps({"apiVersion": _V1, "status": _TOKEN}))),
    _case("no apiVersion", _script(json.dumps({"kind": "ExecCredential", "status": _TOKEN}))),
    _case("answers another version", _script(_printed(_TOKEN, _BETA))),
    _case("no status", _script(json.dumps({"apiVersion": _V1, "kind": "ExecCredential"}))),
    _case("status null", _script(_printed(None))),
    _case("status empty", _script(_printed({}))),
    _case("status a text", _script(_printed("text"))),
    _case("token empty", _script(_printed({"token": ""}))),
    _case("token null", _script(_printed({"token": None}))),
    _case("token a number", _script(_printed({"token": 1}))),
    _case("token with a newline", _script(_printed({"token": "granted\n"}))),
    _case("token with spaces around", _script(_printed({"token": " granted "}))),
    _case("token with a space", _script(_printed({"token": "a b"}))),
    _case("token beyond ASCII", _script(_printed({"token": "gr\u00e4nted"}))),
    _case("unknown fields", _script(_printed({**_TOKEN, "more": 1}, extra=True))),
    _case("spec in the answer", _script(_printed(_TOKEN, spec={"interactive": False}))),
    _case(
        "expires in the future",
        _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01T00:00:00Z"})),
    ),
    _case(
        "expires with a fraction",
        _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01T00:00:00.123456789Z"})),
    ),
    _case(
        "expires with an offset",
        _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01T00:00:00+02:00"})),
    ),
    _case("expired", _script(_printed({**_TOKEN, "expirationTimestamp": "2001-01-01T00:00:00Z"}))),
    _case("expires null", _script(_printed({**_TOKEN, "expirationTimestamp": None}))),
    _case("expires empty", _script(_printed({**_TOKEN, "expirationTimestamp": ""}))),
    _case(
        "expires without a zone",
        _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01T00:00:00"})),
    ),
    _case("expires on a day", _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01"}))),
    _case(
        "expires with a space",
        _script(_printed({**_TOKEN, "expirationTimestamp": "2099-01-01 00:00:00Z"})),
    ),
    _case("expires at a number", _script(_printed({**_TOKEN, "expirationTimestamp": 4070908800}))),
    _case(
        "expires in year 10000",
        _script(_printed({**_TOKEN, "expirationTimestamp": "10000-01-01T00:00:00Z"})),
    ),
    _case("grants a certificate", _script(_CERTIFICATE)),
    _case("grants a certificate and a token", _script(_printed({**_PAIR, **_TOKEN}))),
    _case(
        "grants a certificate without a key",
        _script(_printed({"clientCertificateData": "@json:client.crt@"})),
    ),
    _case("grants a key alone", _script(_printed({"clientKeyData": "@json:client.key@"}))),
    _case(
        "grants a key beside a token",
        _script(_printed({**_TOKEN, "clientKeyData": "@json:client.key@"})),
    ),
    _case(
        "grants a certificate of garbage",
        _script(_printed({"clientCertificateData": "x", "clientKeyData": "y"})),
    ),
    _case(
        "grants a pair that doesn't match",
        _script(_printed({**_PAIR, "clientKeyData": "@json:client2.key@"})),
    ),
    _case(
        "grants an empty certificate and a token",
        _script(_printed({**_TOKEN, "clientCertificateData": "", "clientKeyData": ""})),
    ),
    _case(
        "grants an expired certificate",
        _script(
            _printed(
                {
                    "clientCertificateData": "@json:clientexpired.crt@",
                    "clientKeyData": "@json:clientexpired.key@",
                }
            )
        ),
    ),
    _case(
        "grants an encrypted key",
        _script(_printed({**_PAIR, "clientKeyData": "@json:client.encrypted.key@"})),
    ),
    _case("beside a token", user={"token": "inline"}),
    _case("beside a tokenFile", user={"tokenFile": "@dir@/token"}, files={"token": "file"}),
    _case("beside basic", user={"username": "u", "password": "p"}),
    _case(
        "beside a certificate",
        user={"client-certificate-data": "@b64:client.crt@", "client-key-data": "@b64:client.key@"},
    ),
    _case(
        "granting a certificate beside a certificate",
        _script(_CERTIFICATE),
        user={
            "client-certificate-data": "@b64:client2.crt@",
            "client-key-data": "@b64:client2.key@",
        },
    ),
    _case("beside as", user={"as": "jane"}),
    _case(
        "over HTTP",
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    _case(
        "granting a certificate over HTTP",
        _script(_CERTIFICATE),
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    _case(
        "by a proxy",
        cluster={"server": "https://api.example.test", "proxy-url": "http://127.0.0.1:@port@"},
    ),
    _case("refused with 401", answers={"status": "401 Unauthorized"}),
    _case("unknown key", colour="red"),
    _case("installHint", installHint="get it"),
    Case("exec: null", user={"exec": None}),
    Case("exec: null beside a token", user={"exec": None, "token": "good"}),
    Case("exec: empty", user={"exec": {}}),
    Case("exec: a text", user={"exec": "plugin"}),
)
