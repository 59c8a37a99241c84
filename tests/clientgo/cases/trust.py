"""Certificates of API servers, and what a kubeconfig trusts."""

from typing import Any, Final

from tests.clientgo.table import Case

_NAME: Final = "https://api.example.test"

# What the server shows, and what is trusted.
_CHAINS: Final[dict[str, tuple[str, str]]] = {
    "usual": ("leaf.pem", "ca.crt"),
    "RSA": ("rsa.pem", "ca.crt"),
    "another authority": ("byother.pem", "ca.crt"),
    "another authority of the same name": ("bysame.pem", "ca.crt"),
    "intermediate in the chain": ("byintermediate.chain.pem", "ca.crt"),
    "intermediate not in the chain": ("byintermediate.pem", "ca.crt"),
    "chain with its root": ("byintermediate.full.pem", "ca.crt"),
    "intermediate as CA": ("byintermediate.pem", "intermediate.crt"),
    "intermediate as CA and in the chain": ("byintermediate.chain.pem", "intermediate.crt"),
    "intermediate as CA, chain with its root": ("byintermediate.full.pem", "intermediate.crt"),
    "intermediate and root as CA": ("byintermediate.pem", "bundle.chain.crt"),
    "two intermediates in the chain": ("bysecond.chain.pem", "ca.crt"),
    "two intermediates, first as CA": ("bysecond.chain.pem", "intermediate.crt"),
    "two intermediates, second as CA": ("bysecond.pem", "second.crt"),
    "two intermediates, first as CA, second not in the chain": ("bysecond.pem", "intermediate.crt"),
    "two intermediates out of order": ("bysecond.swapped.pem", "ca.crt"),
    "own certificate as CA": ("leaf.pem", "leaf.crt"),
    "intermediate's child as CA": ("byintermediate.pem", "byintermediate.crt"),
    "self-signed, itself as CA": ("self.pem", "self.crt"),
    "self-signed CA, itself as CA": ("selfca.pem", "selfca.crt"),
    "self-signed without extensions": ("selfplain.pem", "selfplain.crt"),
    "self-signed, another CA": ("self.pem", "ca.crt"),
    "self-signed and expired": ("selfexpired.pem", "selfexpired.crt"),
    "old CA without key identifiers": ("byold.pem", "oldca.crt"),
    "old CA, certificate without extensions": ("byoldplain.pem", "oldca.crt"),
    "old CA without key usage": ("byoldusage.pem", "oldusage.crt"),
    "CA without basic constraints": ("bynoconstraints.pem", "noconstraints.crt"),
    "CA that is none": ("bynotca.pem", "notca.crt"),
    "CA expired": ("byexpiredca.pem", "expiredca.crt"),
    "CA not yet valid": ("byfutureca.pem", "futureca.crt"),
    "CA that may not sign": ("bynosign.pem", "nosign.crt"),
    "CA for clients": ("byclientsonly.pem", "clientsonly.crt"),
    "CA with too short a path": ("toodeep.chain.pem", "shortca.crt"),
    "cross-signed, old root": ("leaf.crossed.pem", "ca.crt"),
    "cross-signed, new root": ("leaf.crossed.pem", "other.crt"),
    "expired certificate beside": ("leaf.expiredextra.pem", "ca.crt"),
    "expired": ("expired.pem", "ca.crt"),
    "not yet valid": ("future.pem", "ca.crt"),
    "valid for 100 years": ("long.pem", "ca.crt"),
    "for clients alone": ("forclients.pem", "ca.crt"),
    "for clients and servers": ("forboth.pem", "ca.crt"),
    "for any purpose": ("anypurpose.pem", "ca.crt"),
    "unknown critical extension": ("unknown.pem", "ca.crt"),
    "unknown extension": ("unknowncasual.pem", "ca.crt"),
    "without a subject": ("emptyname.pem", "ca.crt"),
}
# What the certificate names, where it is dialled, tls-server-name.
_NAMES: Final[dict[str, tuple[str, str, str | None]]] = {
    "address": ("leaf.pem", "https://127.0.0.1:@port@", None),
    "another address": ("leaf.pem", "https://127.0.0.2:6443", None),
    "IPv6": ("leaf.pem", "https://[::1]:6443", None),
    "IPv6 of IPv4": ("leaf.pem", "https://[::ffff:127.0.0.1]:6443", None),
    "name": ("leaf.pem", _NAME, None),
    "name with a trailing dot": ("leaf.pem", _NAME + ".", None),
    "name in capitals": ("leaf.pem", "https://API.example.test", None),
    "certificate in capitals": ("upper.pem", _NAME, None),
    "certificate with a trailing dot": ("dotted.pem", _NAME, None),
    "both with a trailing dot": ("dotted.pem", _NAME + ".", None),
    "wrong name": ("wrongname.pem", _NAME, None),
    "no names": ("nosan.pem", _NAME, None),
    "no names, an address": ("ipascn.pem", "https://127.0.0.1:@port@", None),
    "address as a name": ("ipasdns.pem", "https://127.0.0.1:@port@", None),
    "URI alone": ("uri.pem", _NAME, None),
    "wildcard": ("wildcard.pem", _NAME, None),
    "wildcard two levels up": ("wildcard.pem", "https://a.api.example.test", None),
    "wildcard of its own domain": ("wildcard.pem", "https://example.test", None),
    "wildcard of a top level": ("widest.pem", "https://example.test", None),
    "wildcard inside a label": ("partial.pem", _NAME, None),
    "wildcard with a trailing dot": ("wildcard.pem", _NAME + ".", None),
    "underscore": ("underscore.pem", "https://my_api.example.test", None),
    "single label": ("leaf.pem", "https://kubernetes", None),
    "constrained to the domain": ("byconstrained.pem", _NAME, None),
    "excluding the domain": ("byexcluding.pem", _NAME, None),
    "tls-server-name": ("leaf.pem", "https://10.0.0.1:6443", "kubernetes"),
    "tls-server-name of an address": ("leaf.pem", _NAME, "127.0.0.1"),
    "tls-server-name of IPv6": ("leaf.pem", _NAME, "::1"),
    "tls-server-name of IPv6 in brackets": ("leaf.pem", _NAME, "[::1]"),
    "tls-server-name wrong": ("leaf.pem", "https://127.0.0.1:@port@", "wrong.example.test"),
    "tls-server-name in capitals": ("leaf.pem", "https://10.0.0.1:6443", "KUBERNETES"),
    "tls-server-name with a trailing dot": ("leaf.pem", "https://10.0.0.1:6443", "kubernetes."),
    "tls-server-name with a leading dot": ("leaf.pem", "https://10.0.0.1:6443", ".kubernetes"),
    "tls-server-name with a port": ("leaf.pem", "https://10.0.0.1:6443", "kubernetes:443"),
    "tls-server-name empty": ("leaf.pem", _NAME, ""),
    "tls-server-name with a space": ("leaf.pem", _NAME, "api example"),
    "tls-server-name beyond ASCII": ("leaf.pem", _NAME, "\u00fcber.example.test"),
    "tls-server-name with an underscore": ("underscore.pem", _NAME, "my_api.example.test"),
    "tls-server-name for a wildcard": ("wildcard.pem", "https://10.0.0.1", "x.example.test"),
    "tls-server-name a wildcard": ("wildcard.pem", "https://10.0.0.1", "*.example.test"),
}
_AUTHORITIES: Final = {"byconstrained.pem": "constrained.crt", "byexcluding.pem": "excluding.crt"}
_BUNDLES: Final = (
    "bundle.crt",
    "bundle.same.crt",
    "bundle.expired.crt",
    "twice.crt",
    "ca.text.crt",
    "ca.bom.crt",
    "ca.crlf.crt",
    "ca.nonewline.crt",
    "ca.indented.crt",
    "ca.trusted.crt",
    "ca.x509.crt",
    "ca.der.crt",
    "ca.withkey.crt",
    "ca.keyonly.crt",
    "ca.cut.crt",
    "ca.thencut.crt",
    "ca.badthengood.crt",
    "ca.goodthenbad.crt",
    "ca.headers.crt",
    "ca.latin.crt",
    "ca.utf8.crt",
    "ca.spaces.crt",
    "ca.joined.crt",
    "ca.oneline.crt",
    "text.crt",
    "empty.crt",
    "blank.crt",
)
_INSECURE: Final = {"insecure-skip-tls-verify": True}
_NO_DATA: Final = {"certificate-authority-data": None}
_CLUSTERS: Final[dict[str, dict[str, Any]]] = {
    "no CA": _NO_DATA,
    "CA data empty": {"certificate-authority-data": ""},
    "CA data not base64": {"certificate-authority-data": "!!!"},
    "CA data of PEM itself": {"certificate-authority-data": "@text:ca.crt@"},
    "CA data beside a missing file": {"certificate-authority": "/no/such"},
    "CA data beside another file": {"certificate-authority": "@file:other.crt@"},
    "CA file missing": {**_NO_DATA, "certificate-authority": "/no/such"},
    "CA file a folder": {**_NO_DATA, "certificate-authority": "@dir@"},
    "CA file relative": {**_NO_DATA, "certificate-authority": "sub/ca.crt"},
    "CA file with a tilde": {**_NO_DATA, "certificate-authority": "~/sub/ca.crt"},
    "CA file in another folder": {**_NO_DATA, "certificate-authority": "sub/../sub/ca.crt"},
    "unchecked": {**_NO_DATA, **_INSECURE},
    "unchecked beside CA data": _INSECURE,
    "unchecked beside a CA file": {
        **_NO_DATA,
        **_INSECURE,
        "certificate-authority": "@file:ca.crt@",
    },
    "unchecked beside an empty CA": {**_INSECURE, "certificate-authority-data": ""},
    "unchecked beside broken CA data": {
        **_INSECURE,
        "certificate-authority-data": "@b64:text.crt@",
    },
    "unchecked with tls-server-name": {**_NO_DATA, **_INSECURE, "tls-server-name": "kubernetes"},
    "checked explicitly": {"insecure-skip-tls-verify": False},
    "compression off": {"disable-compression": True},
    "compression of text": {"disable-compression": "true"},
    "unknown key": {"colour": "red"},
    "extension": {"extensions": [{"name": "a", "extension": {"b": 1}}]},
    "api-version, an old key": {"api-version": "v1"},
}

CASES: Final = (
    *(
        Case(f"chain: {name}", server=server, cluster={"certificate-authority-data": f"@b64:{ca}@"})
        for name, (server, ca) in _CHAINS.items()
    ),
    *(
        Case(
            f"name: {name}",
            server=server,
            cluster={
                "server": url,
                **({} if tls_name is None else {"tls-server-name": tls_name}),
                "certificate-authority-data": f"@b64:{_AUTHORITIES.get(server, 'ca.crt')}@",
            },
        )
        for name, (server, url, tls_name) in _NAMES.items()
    ),
    *(
        Case(f"CA data: {name}", cluster={"certificate-authority-data": f"@b64:{name}@"})
        for name in _BUNDLES
    ),
    *(
        Case(
            f"CA file: {name}",
            cluster={"certificate-authority-data": None, "certificate-authority": f"@file:{name}@"},
        )
        for name in _BUNDLES
    ),
    *(
        Case(f"cluster: {name}", cluster=cluster, files={"sub/ca.crt": "@text:ca.crt@"})
        for name, cluster in _CLUSTERS.items()
    ),
    *(
        Case(
            f"unchecked: {name}",
            server=server,
            cluster={
                "server": url,
                "insecure-skip-tls-verify": True,
                "certificate-authority-data": None,
            },
        )
        for name, server, url in (
            ("another authority", "byother.pem", "https://127.0.0.1:@port@"),
            ("expired", "expired.pem", "https://127.0.0.1:@port@"),
            ("wrong name", "wrongname.pem", "https://127.0.0.1:@port@"),
            ("for clients alone", "forclients.pem", "https://127.0.0.1:@port@"),
            ("a name", "leaf.pem", _NAME),
            ("a name with a trailing dot", "leaf.pem", _NAME + "."),
        )
    ),
    Case("TLS: 1.2", answers={"max_tls": "TLSv1_2"}),
)
