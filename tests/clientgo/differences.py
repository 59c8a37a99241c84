"""Where telemetryd does something else than client-go on purpose, and why.

`docs/login.md` shows this table; what isn't in it is a bug.
"""

from dataclasses import dataclass
from typing import Final

from tests.clientgo.cases import CASES
from tests.docs.markdown import table


@dataclass(frozen=True)
class Difference:
    """Cases that differ for one reason.

    Attributes:
        input: What they have in common.
        theirs: What client-go does.
        ours: What telemetryd does.
        reason: Why.
        cases: Their names.
    """

    input: str
    theirs: str
    ours: str
    reason: str
    cases: tuple[str, ...]


DOCUMENTED: Final[tuple[Difference, ...]] = (
    Difference(
        input="a token with white space around it",
        theirs="sends the white space, or fails where it is a line break",
        ours="removes it",
        reason="A token in a YAML block ends with a line break that its writer does not see.",
        cases=(
            "user: token with spaces around",
            "user: token with a newline",
            "syntax: token as a block",
            "exec: token with spaces around",
            "exec: token with a newline",
        ),
    ),
    Difference(
        input="a token with white space in it, or characters beyond ASCII",
        theirs="sends it",
        ours="refuses it",
        reason="RFC 6750 allows neither. The API server would answer 401 without a reason.",
        cases=(
            "user: token with a space inside",
            "user: token of spaces",
            "user: token beyond ASCII",
            "user: tokenFile with a BOM",
            "exec: token with a space",
            "exec: token beyond ASCII",
            "pod: token is a space inside",
            "pod: token is beyond ASCII",
            "pod: token is bytes that are no text",
            "pod: token is a BOM",
        ),
    ),
    Difference(
        input="a context that names a user that is not there",
        theirs="sends requests without a credential (kubectl asks for one)",
        ours="refuses it",
        reason="It is a mistake. Requests without one would fail later, for want of rights.",
        cases=(
            "syntax: users missing",
            "syntax: users null",
            "syntax: context names no user there is",
            "syntax: keys in other letters",
        ),
    ),
    Difference(
        input="a token, password or exec plugin with an `http` server on loopback",
        theirs="sends no credential",
        ours="sends it",
        reason="Such a server is a hop on the same machine, which adds TLS. "
        "To other machines telemetryd sends no credential by HTTP either.",
        cases=(
            "user: token over HTTP",
            "user: basic over HTTP",
            "exec: over HTTP",
            "url: http",
            "url: http with a CA",
            "url: no scheme",
            "url: no scheme, localhost",
            "url: no scheme, without TLS",
            "url: no scheme, unchecked",
        ),
    ),
    Difference(
        input="user and password in the server's URL",
        theirs="sends them as basic authentication, in place of the user's token",
        ours="refuses them",
        reason="The URL appears in logs, so it must hold no secret.",
        cases=(
            "url: userinfo",
            "url: userinfo without a password",
        ),
    ),
    Difference(
        input="a SOCKS proxy",
        theirs="supports SOCKS 5, and takes SOCKS 4 in the environment for HTTP",
        ours="refuses it",
        reason="aiohttp has no SOCKS client. The message says so.",
        cases=(
            "proxy-url: socks5",
            "proxy-url: socks5 without a port",
            "proxy-url: socks5 with credentials",
            "environment: socks5",
            "environment: socks5h",
            "environment: socks4",
        ),
    ),
    Difference(
        input="a proxy URL without a host, with an unknown scheme or a bad escape",
        theirs="dials loopback, a host named `http`, the proxy by HTTP, or no proxy",
        ours="refuses it",
        reason="It is a mistake, and the message names the variable or the key.",
        cases=(
            "proxy-url: no host",
            "proxy-url: no host but a port",
            "environment: no host",
            "environment: credentials of a bad escape",
            "environment: garbage",
            "environment: scheme ftp",
        ),
    ),
    Difference(
        input="white space around the proxy URL in the environment",
        theirs="ignores the variable, or fails",
        ours="removes the white space",
        reason="Files of environment variables often have it.",
        cases=(
            "environment: spaces around",
            "environment: a space alone",
        ),
    ),
    Difference(
        input="an `https` proxy and `tls-server-name`",
        theirs="expects `tls-server-name` in the proxy's certificate too",
        ours="expects the proxy's own name",
        reason="The key is about the API server. The proxy's certificate has the proxy's name.",
        cases=("proxy-url: https with tls-server-name",),
    ),
    Difference(
        input="`~` in `KUBECONFIG`",
        theirs="looks for a folder named `~`",
        ours="is the home folder",
        reason="Service managers set variables without a shell that would replace it.",
        cases=("files: KUBECONFIG with a tilde",),
    ),
    Difference(
        input="a pod without a CA file, or with one that holds no certificate",
        theirs="trusts what the system trusts",
        ours="refuses it",
        reason="Kubernetes always mounts one. The message says what to mount.",
        cases=tuple(
            f"pod: CA is {name}, and the system knows it" for name in ("missing", "empty", "text")
        ),
    ),
    Difference(
        input="a pod's CA file with a broken certificate among good ones",
        theirs="ignores the file, and trusts what the system trusts",
        ours="trusts the good ones",
        reason="client-go does so too where a kubeconfig names the file.",
        cases=(
            "pod: CA is ca.badthengood.crt",
            "pod: CA is ca.goodthenbad.crt",
        ),
    ),
    Difference(
        input="a certificate for any purpose, a wildcard directly below a top-level domain, "
        "or a name in a certificate that ends with a dot",
        theirs="accepts it",
        ours="refuses it",
        reason="OpenSSL checks certificates, and its rules are stricter here.",
        cases=(
            "chain: for any purpose",
            "name: wildcard of a top level",
            "name: both with a trailing dot",
        ),
    ),
)


def names() -> frozenset[str]:
    """Of every case that is documented to differ."""
    return frozenset(name for difference in DOCUMENTED for name in difference.cases)


def render_differences() -> str:
    """The table of `docs/login.md`."""
    cases, differ = len(CASES), len(names())
    parts = [
        f"{cases} cases: {cases - differ} equal, {differ} different on purpose, as follows.\n",
        table(
            ("input", "client-go", "telemetryd", "why", "cases"),
            [
                (found.input, found.theirs, found.ours, found.reason, str(len(found.cases)))
                for found in DOCUMENTED
            ],
        ),
    ]
    return "\n".join(parts)
