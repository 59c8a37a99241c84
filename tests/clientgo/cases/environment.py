"""Proxies of the kubeconfig and of the environment, in all of Go's forms, and pods."""

from typing import Any, Final

from tests.clientgo.table import Case

_NAME: Final = "https://api.example.test"
_BY: Final = "http://127.0.0.1:@port@"

_PROXY_URLS: Final[dict[str, Any]] = {
    "http": _BY,
    "http with a slash": _BY + "/",
    "http with a path": _BY + "/a",
    "http with a query": _BY + "?a",
    "http without a port": "http://proxy.test",
    "https": "https://proxy.test:3128",
    "https without a port": "https://proxy.test",
    "socks5": "socks5://127.0.0.1:@port@",
    "socks5 without a port": "socks5://127.0.0.1",
    "socks5 with credentials": "socks5://u:p@127.0.0.1:@port@",
    "socks5h": "socks5h://127.0.0.1:@port@",
    "socks4": "socks4://127.0.0.1:@port@",
    "capitals": "HTTP://127.0.0.1:@port@",
    "credentials": "http://user:pass@127.0.0.1:@port@",
    "credentials with a user alone": "http://user@127.0.0.1:@port@",
    "credentials with an empty password": "http://user:@127.0.0.1:@port@",
    "credentials escaped": "http://us%40er:p%3Ass%2F@127.0.0.1:@port@",
    "credentials beyond ASCII": "http://user:p%E2%82%ACss@127.0.0.1:@port@",
    "credentials beyond ASCII, not escaped": "http://user:p\u20acss@127.0.0.1:@port@",
    "credentials with a plus": "http://user:a+b@127.0.0.1:@port@",
    "credentials that are no escape": "http://user:a%zz@127.0.0.1:@port@",
    "credentials with two colons": "http://user:a:b@127.0.0.1:@port@",
    "credentials with a bad byte": "http://user:a%FF@127.0.0.1:@port@",
    "no scheme": "127.0.0.1:@port@",
    "no scheme, a name": "proxy.test:3128",
    "no scheme, slashes": "//127.0.0.1:@port@",
    "scheme ftp": "ftp://127.0.0.1:@port@",
    "no host": "http://",
    "no host but a port": "http://:3128",
    "port no number": "http://127.0.0.1:abc",
    "port too high": "http://127.0.0.1:65536",
    "IPv6": "http://[::1]:3128",
    "a space": "http://pro xy:3128",
    "spaces around": " http://127.0.0.1:@port@ ",
    "empty": "",
    "a number": 3128,
    "a path alone": "/proxy",
    "localhost": "http://localhost:@port@",
}
_NO_PROXY: Final = {
    "exact": "api.example.test",
    "exact with the port": "api.example.test:443",
    "exact with another port": "api.example.test:6443",
    "exact in capitals": "API.Example.TEST",
    "exact with a trailing dot": "api.example.test.",
    "domain": "example.test",
    "domain with a dot": ".example.test",
    "domain with a dot and the port": ".example.test:443",
    "domain with a dot and another port": ".example.test:8443",
    "domain with the port": "example.test:443",
    "domain with a star": "*.example.test",
    "domain with a star and the port": "*.example.test:443",
    "star without a dot": "*example.test",
    "top level": "test",
    "top level with a dot": ".test",
    "own name with a dot": ".api.example.test",
    "own name with a star": "*.api.example.test",
    "part of a label": "ple.test",
    "star": "*",
    "star among others": "a.test,*,b.test",
    "star with a port": "*:443",
    "star of all with a dot": "*.",
    "dot": ".",
    "spaces": " a.test , api.example.test ",
    "separated by spaces": "a.test api.example.test",
    "separated by semicolons": "a.test;api.example.test",
    "empty parts": ",,api.example.test,,",
    "URL": "https://api.example.test",
    "path": "api.example.test/path",
    "port alone": ":443",
    "port empty": "api.example.test:",
    "port of letters": "api.example.test:https",
    "star inside": "api.*.test",
    "question mark": "api.?xample.test",
    "address": "127.0.0.1",
    "quotes": '"api.example.test"',
    "brackets": "[api.example.test]",
    "empty": "",
}
_ADDRESSES: Final = {
    "exact": ("https://10.43.0.1", "10.43.0.1"),
    "exact with the port": ("https://10.43.0.1:443", "10.43.0.1:443"),
    "exact with another port": ("https://10.43.0.1:443", "10.43.0.1:6443"),
    "network": ("https://10.43.0.1", "10.43.0.0/16"),
    "network of a host": ("https://10.43.0.1", "10.43.0.9/16"),
    "network with a port": ("https://10.43.0.1", "10.43.0.0/16:443"),
    "other network": ("https://10.43.0.1", "10.44.0.0/16"),
    "network of everything": ("https://10.43.0.1", "0.0.0.0/0"),
    "network that can't be": ("https://10.43.0.1", "10.43.0.0/33"),
    "network by mask": ("https://10.43.0.1", "10.43.0.0/255.255.0.0"),
    "short network": ("https://10.43.0.1", "10.43/16"),
    "prefix": ("https://10.43.0.1", "10.43."),
    "suffix": ("https://10.43.0.1", ".0.1"),
    "part": ("https://10.43.0.1", "0.1"),
    "star": ("https://10.43.0.1", "10.43.*"),
    "IPv4 in IPv6": ("https://10.43.0.1", "::ffff:10.43.0.1"),
    "IPv4 in IPv6 network": ("https://10.43.0.1", "::ffff:10.43.0.0/112"),
    "IPv6 of IPv4 host": ("https://[::ffff:10.43.0.1]", "10.43.0.1"),
    "IPv6 of IPv4 host, network": ("https://[::ffff:10.43.0.1]", "10.43.0.0/16"),
    "IPv6": ("https://[2001:db8::1]", "2001:db8::1"),
    "IPv6 in brackets": ("https://[2001:db8::1]", "[2001:db8::1]"),
    "IPv6 in brackets with the port": ("https://[2001:db8::1]", "[2001:db8::1]:443"),
    "IPv6 in brackets with another port": ("https://[2001:db8::1]", "[2001:db8::1]:6443"),
    "IPv6 long": ("https://[2001:db8::1]", "2001:db8:0:0:0:0:0:1"),
    "IPv6 capitals": ("https://[2001:db8::a]", "2001:DB8::A"),
    "IPv6 network": ("https://[2001:db8::1]", "2001:db8::/32"),
    "IPv6 other network": ("https://[2001:db8::1]", "2001:db9::/32"),
    "IPv6 zone": ("https://[fe80::1%25eth0]", "fe80::1"),
    "IPv6 zone, network": ("https://[fe80::1%25eth0]", "fe80::/10"),
    "leading zeros": ("https://10.43.0.1", "010.043.000.001"),
    "loopback": ("https://127.0.0.1:@port@", ""),
    "loopback elsewhere": ("https://127.9.9.9:6443", ""),
    "IPv6 loopback": ("https://[::1]:6443", ""),
    "localhost": ("https://localhost:@port@", ""),
    "localhost with a dot": ("https://localhost.:6443", ""),
    "localhost in capitals": ("https://LOCALHOST:6443", ""),
    "under localhost": ("https://a.localhost:6443", ""),
    "host with a trailing dot": ("https://api.example.test.", "api.example.test"),
    "host with a trailing dot, domain": ("https://api.example.test.", ".example.test"),
    "host in capitals": ("https://API.EXAMPLE.TEST", "api.example.test"),
    "host with a port": ("https://api.example.test:6443", "api.example.test:6443"),
    "host with a port, without": ("https://api.example.test:6443", "api.example.test"),
    "unspecified": ("https://0.0.0.0:6443", ""),
    "beyond ASCII": ("https://xn--ber-goa.example.test", "\u00fcber.example.test"),
}
_UNCHECKED: Final = {"insecure-skip-tls-verify": True, "certificate-authority-data": None}
_ENVIRONMENT: Final[dict[str, tuple[str, dict[str, str]]]] = {
    "HTTPS_PROXY": (_NAME, {"HTTPS_PROXY": _BY}),
    "https_proxy": (_NAME, {"https_proxy": _BY}),
    "both cases": (_NAME, {"HTTPS_PROXY": _BY, "https_proxy": "http://other.test:1"}),
    "lower case empty": (_NAME, {"HTTPS_PROXY": _BY, "https_proxy": ""}),
    "HTTP_PROXY alone": (_NAME, {"HTTP_PROXY": _BY}),
    "ALL_PROXY alone": (_NAME, {"ALL_PROXY": _BY, "all_proxy": _BY}),
    "no_proxy in small letters": (_NAME, {"HTTPS_PROXY": _BY, "no_proxy": "api.example.test"}),
    "NO_PROXY in both cases": (
        _NAME,
        {"HTTPS_PROXY": _BY, "no_proxy": "a.test", "NO_PROXY": "api.example.test"},
    ),
    "NO_PROXY before no_proxy": (
        _NAME,
        {"HTTPS_PROXY": _BY, "NO_PROXY": "a.test", "no_proxy": "api.example.test"},
    ),
    "NO_PROXY empty, no_proxy given": (
        _NAME,
        {"HTTPS_PROXY": _BY, "NO_PROXY": "", "no_proxy": "api.example.test"},
    ),
    "http server": ("http://api.example.test", {"HTTP_PROXY": _BY}),
    "http server, small letters": ("http://api.example.test", {"http_proxy": _BY}),
    "http server, HTTPS_PROXY": ("http://api.example.test", {"HTTPS_PROXY": _BY}),
    "http server, credentials": (
        "http://api.example.test",
        {"HTTP_PROXY": "http://u:p@127.0.0.1:@port@"},
    ),
    "HTTP_PROXY in a CGI": (
        "http://api.example.test",
        {"HTTP_PROXY": _BY, "REQUEST_METHOD": "GET"},
    ),
    "HTTPS_PROXY in a CGI": (_NAME, {"HTTPS_PROXY": _BY, "REQUEST_METHOD": "GET"}),
    "port 80 and https": ("https://api.example.test:80", {"HTTPS_PROXY": _BY}),
    "credentials": (_NAME, {"HTTPS_PROXY": "http://user:pass@127.0.0.1:@port@"}),
    "credentials beyond ASCII": (
        _NAME,
        {"HTTPS_PROXY": "http://user:p%E2%82%ACss@127.0.0.1:@port@"},
    ),
    "no scheme": (_NAME, {"HTTPS_PROXY": "127.0.0.1:@port@"}),
    "no scheme, a name": (_NAME, {"HTTPS_PROXY": "proxy.test:3128"}),
    "no scheme, no port": (_NAME, {"HTTPS_PROXY": "proxy.test"}),
    "no scheme, credentials": (_NAME, {"HTTPS_PROXY": "u:p@127.0.0.1:@port@"}),
    "https proxy": (_NAME, {"HTTPS_PROXY": "https://proxy.test:3128"}),
    "socks5": (_NAME, {"HTTPS_PROXY": "socks5://127.0.0.1:@port@"}),
    "socks5h": (_NAME, {"HTTPS_PROXY": "socks5h://127.0.0.1:@port@"}),
    "socks4": (_NAME, {"HTTPS_PROXY": "socks4://127.0.0.1:@port@"}),
    "scheme ftp": (_NAME, {"HTTPS_PROXY": "ftp://127.0.0.1:@port@"}),
    "garbage": (_NAME, {"HTTPS_PROXY": "http://[::1"}),
    "credentials of a bad escape": (_NAME, {"HTTPS_PROXY": "http://u:p%zz@127.0.0.1:@port@"}),
    "garbage for another scheme": (_NAME, {"HTTP_PROXY": "http://[::1"}),
    "spaces around": (_NAME, {"HTTPS_PROXY": f" {_BY} "}),
    "a space alone": (_NAME, {"HTTPS_PROXY": " "}),
    "no host": (_NAME, {"HTTPS_PROXY": "http://"}),
    "a slash at its end": (_NAME, {"HTTPS_PROXY": _BY + "/"}),
}

CASES: Final = (
    *(
        Case(f"proxy-url: {name}", cluster={"server": _NAME, "proxy-url": url})
        for name, url in _PROXY_URLS.items()
    ),
    *(
        Case(
            f"NO_PROXY: {name}",
            cluster={"server": _NAME},
            env={"HTTPS_PROXY": _BY, "NO_PROXY": value},
        )
        for name, value in _NO_PROXY.items()
    ),
    *(
        Case(
            f"NO_PROXY: address, {name}",
            cluster={"server": server, **_UNCHECKED},
            env={"HTTPS_PROXY": _BY, "NO_PROXY": value},
        )
        for name, (server, value) in _ADDRESSES.items()
    ),
    *(
        Case(
            f"environment: {name}",
            env=env,
            cluster={
                "server": server,
                **({"certificate-authority-data": None} if server.startswith("http:") else {}),
            },
        )
        for name, (server, env) in _ENVIRONMENT.items()
    ),
    Case(
        "proxy-url: before the environment",
        cluster={"server": _NAME, "proxy-url": "http://proxy.test:3128"},
        env={"HTTPS_PROXY": _BY},
    ),
    Case(
        "proxy-url: NO_PROXY does not count",
        cluster={"server": _NAME, "proxy-url": _BY},
        env={"NO_PROXY": "*"},
    ),
    Case("proxy-url: for loopback", cluster={"proxy-url": "http://proxy.test:3128"}),
    Case(
        "proxy-url: https with a foreign certificate",
        cluster={"server": _NAME, "proxy-url": "https://proxy.test:3128"},
        answers={"proxy_cert": "otherproxy.pem"},
    ),
    Case(
        "proxy-url: https, unchecked",
        cluster={"server": _NAME, "proxy-url": "https://proxy.test:3128", **_UNCHECKED},
        answers={"proxy_cert": "otherproxy.pem"},
    ),
    Case(
        "proxy-url: https with credentials",
        cluster={"server": _NAME, "proxy-url": "https://u:p@proxy.test:3128"},
    ),
    Case(
        "proxy-url: https with tls-server-name",
        cluster={
            "server": _NAME,
            "proxy-url": "https://proxy.test:3128",
            "tls-server-name": "kubernetes",
        },
    ),
    Case(
        "proxy-url: http server",
        cluster={
            "server": "http://api.example.test",
            "proxy-url": _BY,
            "certificate-authority-data": None,
        },
    ),
    Case(
        "pod: KUBECONFIG counts",
        files={"serviceaccount/token": "pod", "serviceaccount/ca.crt": "@text:ca.crt@"},
        env={"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT": "443"},
    ),
    Case(
        "pod: no service account",
        env={
            "KUBECONFIG": None,
            "KUBERNETES_SERVICE_HOST": "10.43.0.1",
            "KUBERNETES_SERVICE_PORT": "443",
        },
    ),
    Case(
        "pod: no port",
        files={"serviceaccount/token": "pod"},
        env={"KUBERNETES_SERVICE_HOST": "10.43.0.1"},
    ),
)
