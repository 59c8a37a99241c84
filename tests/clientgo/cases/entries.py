"""Users: tokens, passwords, client certificates, impersonation."""

from typing import Any, Final

from tests.clientgo.table import Case

_PAIR: Final = {
    "client-certificate-data": "@b64:client.crt@",
    "client-key-data": "@b64:client.key@",
}
_FILES: Final = {"client-certificate": "@file:client.crt@", "client-key": "@file:client.key@"}

_USERS: Final[dict[str, Any]] = {
    "empty": {},
    "token": {"token": "good"},
    "token with spaces around": {"token": "  good  "},
    "token with a newline": {"token": "good\n"},
    "token with a newline inside": {"token": "go\nod"},
    "token with a space inside": {"token": "go od"},
    "token beyond ASCII": {"token": "g\u00f6od"},
    "token empty": {"token": ""},
    "token of spaces": {"token": "  "},
    "token of 8 KB": {"token": "x" * 8192},
    "tokenFile": {"tokenFile": "@dir@/token"},
    "tokenFile relative": {"tokenFile": "token"},
    "tokenFile relative by a folder that isn't there": {"tokenFile": "./no/../token"},
    "tokenFile beside token": {"tokenFile": "@dir@/token", "token": "inline"},
    "tokenFile missing": {"tokenFile": "/no/such"},
    "tokenFile missing beside token": {"tokenFile": "/no/such", "token": "inline"},
    "tokenFile empty": {"tokenFile": "@dir@/empty"},
    "tokenFile empty beside token": {"tokenFile": "@dir@/empty", "token": "inline"},
    "tokenFile blank": {"tokenFile": "@dir@/blank"},
    "tokenFile a folder": {"tokenFile": "@dir@"},
    "tokenFile of two lines": {"tokenFile": "@dir@/two"},
    "tokenFile with a BOM": {"tokenFile": "@dir@/bom"},
    "basic": {"username": "u", "password": "p"},
    "basic beyond ASCII": {"username": "\u00fc", "password": "p\u20ac"},
    "basic with a colon in the user": {"username": "u:v", "password": "p"},
    "username alone": {"username": "u"},
    "password alone": {"password": "p"},
    "username with an empty password": {"username": "u", "password": ""},
    "username and password empty": {"username": "", "password": ""},
    "password a number": {"username": "u", "password": 123},
    "token beside basic": {"token": "good", "username": "u", "password": "p"},
    "token beside username": {"token": "good", "username": "u"},
    "token beside password": {"token": "good", "password": "p"},
    "tokenFile beside basic": {"tokenFile": "@dir@/token", "username": "u", "password": "p"},
    "certificate inline": _PAIR,
    "certificate of files": _FILES,
    "certificate of relative files": {"client-certificate": "c.crt", "client-key": "c.key"},
    "certificate inline, key of a file": {
        "client-certificate-data": "@b64:client.crt@",
        "client-key": "@file:client.key@",
    },
    "certificate of a file, key inline": {
        "client-certificate": "@file:client.crt@",
        "client-key-data": "@b64:client.key@",
    },
    "certificate inline beside missing files": {
        **_PAIR,
        "client-certificate": "/no/such",
        "client-key": "/no/such",
    },
    "certificate inline beside other files": {
        **_PAIR,
        "client-certificate": "@file:client2.crt@",
        "client-key": "@file:client2.key@",
    },
    "certificate beside token": {**_PAIR, "token": "good"},
    "certificate beside basic": {**_PAIR, "username": "u", "password": "p"},
    "certificate without key": {"client-certificate-data": "@b64:client.crt@"},
    "key without certificate": {"client-key-data": "@b64:client.key@"},
    "key without certificate beside token": {
        "client-key-data": "@b64:client.key@",
        "token": "good",
    },
    "certificate with its key in one file": {"client-certificate": "@file:client.pem@"},
    "certificate and key in one file, named twice": {
        "client-certificate": "@file:client.pem@",
        "client-key": "@file:client.pem@",
    },
    "certificate inline with both, twice": {
        "client-certificate-data": "@b64:client.pem@",
        "client-key-data": "@b64:client.pem@",
    },
    "certificate file missing": {**_FILES, "client-certificate": "/no/such"},
    "key file missing": {**_FILES, "client-key": "/no/such"},
    "certificate file a folder": {**_FILES, "client-certificate": "@dir@"},
    "certificate file empty": {**_FILES, "client-certificate": "@dir@/empty"},
    "certificate of garbage": {**_PAIR, "client-certificate-data": "@b64:text.crt@"},
    "key of garbage": {**_PAIR, "client-key-data": "@b64:text.crt@"},
    "certificate not base64": {**_PAIR, "client-certificate-data": "!!!"},
    "certificate empty": {**_PAIR, "client-certificate-data": "", "client-key-data": ""},
    "certificate with an empty key": {**_PAIR, "client-key-data": ""},
    "certificate base64 of nothing but spaces": {**_PAIR, "client-certificate-data": "   "},
    "certificate base64 without padding": {**_PAIR, "client-key-data": "QUI"},
    "key of another certificate": {**_PAIR, "client-key-data": "@b64:client2.key@"},
    "key encrypted": {**_PAIR, "client-key-data": "@b64:client.encrypted.key@"},
    "key encrypted the old way": {**_PAIR, "client-key-data": "@b64:client.encrypted.ec.key@"},
    "key SEC 1": {**_PAIR, "client-key-data": "@b64:client.ec.key@"},
    "key with EC parameters before": {**_PAIR, "client-key-data": "@b64:client.params.key@"},
    "key with text before": {**_PAIR, "client-key-data": "@b64:client.text.key@"},
    "key DER": {**_PAIR, "client-key-data": "@b64:client.der.key@"},
    "certificate RSA": {
        "client-certificate-data": "@b64:clientrsa.crt@",
        "client-key-data": "@b64:clientrsa.key@",
    },
    "certificate RSA, key PKCS 1": {
        "client-certificate-data": "@b64:clientrsa.crt@",
        "client-key-data": "@b64:clientrsa.pkcs1.key@",
    },
    "certificate with its chain": {
        "client-certificate-data": "@b64:clientchain.chain.crt@",
        "client-key-data": "@b64:clientchain.key@",
    },
    "certificate after its chain": {
        "client-certificate-data": "@b64:clientchain.swapped.crt@",
        "client-key-data": "@b64:clientchain.key@",
    },
    "certificate without its chain": {
        "client-certificate-data": "@b64:clientchain.crt@",
        "client-key-data": "@b64:clientchain.key@",
    },
    "certificate expired": {
        "client-certificate-data": "@b64:clientexpired.crt@",
        "client-key-data": "@b64:clientexpired.key@",
    },
    "certificate for servers": {
        "client-certificate-data": "@b64:clientserver.crt@",
        "client-key-data": "@b64:clientserver.key@",
    },
    "certificate of a foreign authority": {
        "client-certificate-data": "@b64:other.crt@",
        "client-key-data": "@b64:other.key@",
    },
    "as": {"token": "good", "as": "jane"},
    "as with groups": {"token": "good", "as": "jane", "as-groups": ["a", "b c"]},
    "as with uid": {"token": "good", "as": "jane", "as-uid": "123"},
    "as with extra": {"token": "good", "as": "jane", "as-user-extra": {"scopes": ["x", "y"]}},
    "as with extra to escape": {
        "token": "good",
        "as": "jane",
        "as-user-extra": {"example.com/a key%": ["v 1"], "Upper": ["\u00fc"]},
    },
    "as with all": {
        "token": "good",
        "as": "jane",
        "as-groups": ["g"],
        "as-uid": "1",
        "as-user-extra": {"a": ["b"]},
    },
    "as beyond ASCII": {"token": "good", "as": "j\u00e4ne"},
    "as with a newline": {"token": "good", "as": "ja\nne"},
    "as with an empty group": {"token": "good", "as": "jane", "as-groups": [""]},
    "as with no groups": {"token": "good", "as": "jane", "as-groups": []},
    "as a service account": {"token": "good", "as": "system:serviceaccount:a:b"},
    "as empty": {"token": "good", "as": ""},
    "as-groups without as": {"token": "good", "as-groups": ["g"]},
    "as-uid without as": {"token": "good", "as-uid": "1"},
    "as-user-extra without as": {"token": "good", "as-user-extra": {"a": ["b"]}},
    "as-groups a text": {"token": "good", "as": "jane", "as-groups": "g"},
    "as with basic": {"username": "u", "password": "p", "as": "jane"},
    "as with a certificate": {**_PAIR, "as": "jane"},
    "as without a credential": {"as": "jane"},
    "as with tokenFile": {"tokenFile": "@dir@/token", "as": "jane"},
    "impersonate-user, the old key": {"token": "good", "act-as": "jane"},
    "auth-provider oidc": {
        "auth-provider": {
            "name": "oidc",
            "config": {
                "client-id": "c",
                "client-secret": "s",
                "idp-issuer-url": "https://idp.example.test",
                "id-token": "eyJhbGciOiJub25lIn0.eyJleHAiOjQxMDI0NDQ4MDB9.x",
            },
        }
    },
    "auth-provider gcp": {"auth-provider": {"name": "gcp", "config": {"access-token": "t"}}},
    "auth-provider azure": {"auth-provider": {"name": "azure", "config": {}}},
    "auth-provider unknown": {"auth-provider": {"name": "no"}},
    "auth-provider beside exec": {
        "auth-provider": {"name": "oidc", "config": {"id-token": "a.b.c"}},
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "true",
            "interactiveMode": "Never",
        },
    },
}

_FILES_BESIDE: Final = {
    "token": "from-file\n",
    "empty": "",
    "blank": " \n",
    "two": "one\ntwo\n",
    "bom": "\ufefftok\n",
    "c.crt": "@text:client.crt@",
    "c.key": "@text:client.key@",
}

CASES: Final = (
    *(Case(f"user: {name}", user=user, files=_FILES_BESIDE) for name, user in _USERS.items()),
    Case("user: certificate wanted and given", user=_PAIR, answers={"wants_certificate": True}),
    Case("user: certificate wanted, not given", answers={"wants_certificate": True}),
    Case(
        "user: certificate over HTTP",
        user=_PAIR,
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    Case(
        "user: broken certificate over HTTP",
        user={**_PAIR, "client-key-data": "@b64:text.crt@"},
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    Case(
        "user: token over HTTP",
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    Case(
        "user: basic over HTTP",
        user={"username": "u", "password": "p"},
        cluster={"server": "http://127.0.0.1:@port@", "certificate-authority-data": None},
    ),
    Case("context: as in the context", context={"as": "jane"}),
)
