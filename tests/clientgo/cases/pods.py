"""Service accounts of pods: where the environment says the API server is, and what is mounted."""

from collections.abc import Mapping
from typing import Final

from tests.clientgo.table import Case

_HOSTS: Final = {
    "an address": "10.43.0.1",
    "IPv6": "2001:db8::1",
    "IPv6 in brackets": "[2001:db8::1]",
    "IPv6 of IPv4": "::ffff:10.43.0.1",
    "IPv6 with a zone": "fe80::1%eth0",
    "IPv6 with a zone, escaped": "fe80::1%25eth0",
    "IPv6 that is none": "2001:db8::1::2",
    "loopback": "127.0.0.1",
    "a name": "api.example.test",
    "a name in capitals": "API.Example.TEST",
    "a name with a trailing dot": "api.example.test.",
    "a single label": "kubernetes",
    "a name with an underscore": "my_api.example.test",
    "a name beyond ASCII": "\u00fcber.example.test",
    "a name that can't be": "api..example.test",
    "empty": "",
    "a space": " ",
    "a space before": " 10.43.0.1",
    "a space behind": "10.43.0.1 ",
    "a line break behind": "10.43.0.1\n",
    "a space inside": "api example.test",
    "a port too": "10.43.0.1:6443",
    "a URL": "https://10.43.0.1",
    "a path": "10.43.0.1/path",
    "a query": "10.43.0.1?a",
    "a fragment": "10.43.0.1#a",
    "a user": "user@10.43.0.1",
    "an escape": "api%2eexample.test",
    "a short address": "127.1",
    "an address of four zeros": "0.0.0.0",
    "a number": "169082881",
    "leading zeros": "010.043.000.001",
}
_PORTS: Final = {
    "empty": "",
    "a space": " ",
    "a space before": " 443",
    "a space behind": "443 ",
    "letters": "https",
    "another": "6443",
    "leading zeros": "0443",
    "a sign": "+443",
    "negative": "-1",
    "zero": "0",
    "too high": "65536",
    "far too high": "4294967739",
    "a path": "443/path",
    "a slash": "443/",
    "a query": "443?a",
    "a fragment": "443#a",
    "a fraction": "443.0",
    "hexadecimal": "0x1bb",
    "digits of another script": "\u0664\u0664\u0663",
    "as Docker links had it": "tcp://10.43.0.1:443",
}
_TOKENS: Final[dict[str, str | bytes | None]] = {
    "a line break behind": "pod\n",
    "white space around": " \r\n\tpod \r\n\n",
    "missing": None,
    "empty": "",
    "blank": " \n\n ",
    "a space inside": "po d",
    "a line break inside": "po\nd",
    "a NUL inside": b"po\0d",
    "beyond ASCII": "p\u00f6d",
    "bytes that are no text": b"p\xff\xfed",
    "a BOM": b"\xef\xbb\xbfpod",
    "a carriage return inside": "po\rd",
    "long": "x" * 8000,
}
_BUNDLES: Final = (
    "bundle.crt",
    "bundle.same.crt",
    "bundle.expired.crt",
    "twice.crt",
    "ca.text.crt",
    "ca.bom.crt",
    "ca.crlf.crt",
    "ca.withkey.crt",
    "ca.keyonly.crt",
    "ca.cut.crt",
    "ca.thencut.crt",
    "ca.badthengood.crt",
    "ca.goodthenbad.crt",
    "ca.headers.crt",
    "ca.oneline.crt",
    "other.crt",
    "oldca.crt",
    "text.crt",
    "empty.crt",
    "blank.crt",
)
_AT: Final = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "@port@"}
_ACCOUNT: Final = {
    "serviceaccount/token": "pod",
    "serviceaccount/ca.crt": "@text:ca.crt@",
}


def _pod(
    name: str,
    *,
    files: Mapping[str, str | bytes | None] | None = None,
    env: Mapping[str, str | None] | None = None,
    server: str = "leaf.pem",
) -> Case:
    """A pod without a kubeconfig; a file or a variable that is None isn't there."""
    given = {**_ACCOUNT, **(files or {})}
    return Case(
        f"pod: {name}",
        files={path: content for path, content in given.items() if content is not None},
        env={"KUBECONFIG": None, **_AT, **(env or {})},
        text="",
        server=server,
    )


CASES: Final = (
    _pod("as usual"),
    *(
        _pod(
            f"host is {name}",
            env={"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": "443"},
        )
        for name, host in _HOSTS.items()
    ),
    *(
        _pod(
            f"port is {name}",
            env={"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": port},
        )
        for name, port in _PORTS.items()
    ),
    *(
        _pod(f"token is {name}", files={"serviceaccount/token": token})
        for name, token in _TOKENS.items()
    ),
    *(
        _pod(f"CA is {name}", files={"serviceaccount/ca.crt": f"@text:{name}@"})
        for name in _BUNDLES
    ),
    _pod("CA is missing", files={"serviceaccount/ca.crt": None}),
    *(
        _pod(
            f"CA is {name}, and the system knows it",
            files={"serviceaccount/ca.crt": content},
            env={"SSL_CERT_FILE": "@file:ca.crt@"},
        )
        for name, content in (("missing", None), ("empty", ""), ("text", "no certificate\n"))
    ),
    _pod(
        "CA is an intermediate",
        files={"serviceaccount/ca.crt": "@text:intermediate.crt@"},
        server="byintermediate.pem",
    ),
    _pod("CA is old", files={"serviceaccount/ca.crt": "@text:oldca.crt@"}, server="byold.pem"),
    _pod("host is not there", env={"KUBERNETES_SERVICE_HOST": None}),
    _pod("port is not there", env={"KUBERNETES_SERVICE_PORT": None}),
    _pod(
        "a proxy",
        env={
            "HTTPS_PROXY": "http://proxy.test:3128",
            "KUBERNETES_SERVICE_HOST": "10.43.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
        },
    ),
    _pod(
        "a proxy, and NO_PROXY",
        env={
            "HTTPS_PROXY": "http://proxy.test:3128",
            "KUBERNETES_SERVICE_HOST": "10.43.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
            "NO_PROXY": "10.43.0.0/16",
        },
    ),
    _pod("KUBECONFIG is empty", env={"KUBECONFIG": ""}),
    _pod("KUBECONFIG names an empty file", env={"KUBECONFIG": "@dir@/config"}),
    _pod("KUBECONFIG names no file", env={"KUBECONFIG": "@dir@/nothing"}),
    Case(
        "pod: KUBECONFIG counts",
        files=_ACCOUNT,
        env={"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    ),
    Case("pod: no service account", env={"KUBECONFIG": None, **_AT}, text=""),
)
