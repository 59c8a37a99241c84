"""YAML and JSON, kinds, names, and several files."""

from dataclasses import replace
from typing import Any, Final

from tests.clientgo.table import GOOD_CLUSTER, Case, document

_GOOD: Final = document(dict(GOOD_CLUSTER), {"token": "good"})
_SERVER: Final = "https://127.0.0.1:@port@"
_CA: Final = "@b64:ca.crt@"


def _flow(**changed: str) -> str:
    """A kubeconfig of lines, each of which can be replaced or left out."""
    lines = {
        "apiVersion": "apiVersion: v1",
        "kind": "kind: Config",
        "preferences": "preferences: {}",
        "current": "current-context: it",
        "contexts": "contexts:\n- name: it\n  context: {cluster: it, user: it}",
        "clusters": f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        f"certificate-authority-data: {_CA}}}",
        "users": "users:\n- name: it\n  user: {token: good}",
        **changed,
    }
    return "\n".join(line for line in lines.values() if line) + "\n"


_CLUSTER: Final = f"{{server: '{_SERVER}', certificate-authority-data: {_CA}}}"
_ELSEWHERE: Final = f"{{server: '{_SERVER}/elsewhere', certificate-authority-data: {_CA}}}"


def _several(name: str, *contents: str, **more: Any) -> Case:
    """Files of `$KUBECONFIG`, in order."""
    names = [f"config{index}" for index in range(len(contents))]
    return Case(
        name,
        files=dict(zip(names, contents, strict=True)),
        env={"KUBECONFIG": ":".join(f"@dir@/{part}" for part in names), **more.pop("env", {})},
        **more,
    )


_TEXTS: Final[dict[str, str | bytes]] = {
    "plain": _GOOD,
    "flow style": _flow(),
    "no apiVersion": _flow(apiVersion=""),
    "no kind": _flow(kind=""),
    "no apiVersion, no kind": _flow(apiVersion="", kind=""),
    "kind List": _flow(kind="kind: List"),
    "kind config in small letters": _flow(kind="kind: config"),
    "apiVersion v2": _flow(apiVersion="apiVersion: v2"),
    "apiVersion with a group": _flow(apiVersion="apiVersion: config.k8s.io/v1"),
    "apiVersion empty": _flow(apiVersion="apiVersion: ''"),
    "kind null": _flow(kind="kind: null"),
    "unknown key at the top": _flow(preferences="extras: {a: [1, 2]}"),
    "preferences null": _flow(preferences="preferences:"),
    "preferences a list": _flow(preferences="preferences: []"),
    "preferences with colors": _flow(preferences="preferences: {colors: true}"),
    "extensions": _flow(preferences="extensions: [{name: a, extension: {b: c}}]"),
    "extensions null": _flow(preferences="extensions: null"),
    "comments": "# a\n" + _GOOD.replace("users:", "# b\nusers: # c"),
    "trailing document marker": _GOOD + "---\n",
    "leading document marker": "---\n" + _GOOD,
    "ended by dots": _GOOD + "...\n",
    "two documents": _GOOD + "---\n" + _GOOD.replace("good", "second"),
    "two documents, the second is garbage": _GOOD + "---\n{{{ no\n",
    "first document empty": "---\n---\n" + _GOOD,
    "YAML directive": "%YAML 1.1\n---\n" + _GOOD,
    "CRLF": _GOOD.replace("\n", "\r\n"),
    "BOM": b"\xef\xbb\xbf"
    + _flow(
        contexts="contexts: []", clusters="clusters: []", users="", current="current-context: ''"
    ).encode(),
    "BOM before a good one": "\ufeff" + _GOOD,
    "indented by tabs": _flow(users="users:\n- name: it\n  user:\n\t\ttoken: good"),
    "tab after a colon": _flow(current="current-context:\tit"),
    "anchors": _flow(
        clusters=f"clusters:\n- &c\n  name: it\n  cluster: {_CLUSTER}\n- <<: *c\n  name: again"
    ),
    "alias as a value": _flow(apiVersion="x: &n it\napiVersion: v1", current="current-context: *n"),
    "name a date": _flow(
        users="users:\n- name: 2024-01-01\n  user: {token: other}\n- name: it\n"
        "  user: {token: good}"
    ),
    "context named by a date": _flow(
        current="current-context: 2024-01-01",
        contexts="contexts:\n- name: 2024-01-01\n  context: {cluster: it, user: it}",
    ),
    "context named by a number": _flow(
        current="current-context: 1",
        contexts="contexts:\n- name: 1\n  context: {cluster: it, user: it}",
    ),
    "context named by a quoted number": _flow(
        current="current-context: '1'",
        contexts="contexts:\n- name: '1'\n  context: {cluster: it, user: it}",
    ),
    "context named true": _flow(
        current="current-context: true",
        contexts="contexts:\n- name: true\n  context: {cluster: it, user: it}",
    ),
    "context named yes": _flow(
        current="current-context: yes",
        contexts="contexts:\n- name: 'yes'\n  context: {cluster: it, user: it}",
    ),
    "user named by a number elsewhere": _flow(
        users="users:\n- name: 12\n  user: {}\n- name: it\n  user: {token: good}"
    ),
    "user without a name elsewhere": _flow(
        users="users:\n- user: {token: other}\n- name: it\n  user: {token: good}"
    ),
    "user with an empty name elsewhere": _flow(
        users="users:\n- name: ''\n  user: {token: other}\n- name: it\n  user: {token: good}"
    ),
    "user named null elsewhere": _flow(
        users="users:\n- name: null\n  user: {token: other}\n- name: it\n  user: {token: good}"
    ),
    "null among contexts": _flow(
        contexts="contexts:\n- null\n- name: it\n  context: {cluster: it, user: it}"
    ),
    "null among users": _flow(users="users:\n-\n- name: it\n  user: {token: good}"),
    "null among clusters": _flow(clusters=f"clusters:\n-\n- name: it\n  cluster: {_CLUSTER}"),
    "text among users": _flow(users="users:\n- text\n- name: it\n  user: {token: good}"),
    "list among users": _flow(users="users:\n- []\n- name: it\n  user: {token: good}"),
    "user null": _flow(users="users:\n- name: it\n  user: null"),
    "user without a body": _flow(users="users:\n- name: it"),
    "user a text": _flow(users="users:\n- name: it\n  user: text"),
    "other user a text": _flow(
        users="users:\n- name: o\n  user: text\n- name: it\n  user: {token: good}"
    ),
    "users null": _flow(users="users: null"),
    "users a mapping": _flow(users="users: {it: {token: good}}"),
    "users missing": _flow(users=""),
    "no user in the context": _flow(
        users="", contexts="contexts:\n- name: it\n  context: {cluster: it}"
    ),
    "user empty in the context": _flow(
        contexts="contexts:\n- name: it\n  context: {cluster: it, user: ''}"
    ),
    "contexts missing": _flow(contexts=""),
    "clusters missing": _flow(clusters=""),
    "context without a cluster": _flow(contexts="contexts:\n- name: it\n  context: {user: it}"),
    "context null": _flow(contexts="contexts:\n- name: it\n  context: null"),
    "context names no cluster there is": _flow(
        contexts="contexts:\n- name: it\n  context: {cluster: none, user: it}"
    ),
    "context names no user there is": _flow(
        contexts="contexts:\n- name: it\n  context: {cluster: it, user: none}"
    ),
    "context names a user by a truth value": _flow(
        contexts="contexts:\n- name: it\n  context: {cluster: it, user: no}"
    ),
    "current-context missing": _flow(current=""),
    "current-context empty": _flow(current="current-context: ''"),
    "current-context null": _flow(current="current-context: null"),
    "current-context not there": _flow(current="current-context: none"),
    "current-context a list": _flow(current="current-context: [it]"),
    "two contexts of one name": _flow(
        contexts="contexts:\n- name: it\n  context: {cluster: it, user: it}\n- name: it\n"
        "  context: {cluster: it, user: it}"
    ),
    "two clusters of one name": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {_CLUSTER}\n"
        f"- name: it\n  cluster: {_ELSEWHERE}"
    ),
    "two users of one name": _flow(
        users="users:\n- name: it\n  user: {token: good}\n- name: it\n  user: {token: other}"
    ),
    "two other users of one name": _flow(
        users="users:\n- name: o\n  user: {token: a}\n- name: o\n  user: {token: b}\n- name: it\n"
        "  user: {token: good}"
    ),
    "duplicate key at the top": _flow(current="current-context: none\ncurrent-context: it"),
    "duplicate key in a user": _flow(
        users="users:\n- name: it\n  user:\n    token: other\n    token: good"
    ),
    "duplicate users": _flow(preferences="users: []"),
    "unknown keys in entries": _flow(
        users="users:\n- name: it\n  more: 1\n  user: {token: good, color: red}"
    ),
    "keys in other letters": _flow(users="users:\n- Name: it\n  User: {Token: good}"),
    "current-context in other letters": _flow(current="Current-Context: it"),
    "token a number": _flow(users="users:\n- name: it\n  user: {token: 123456}"),
    "token true": _flow(users="users:\n- name: it\n  user: {token: true}"),
    "token null": _flow(users="users:\n- name: it\n  user: {token: null}"),
    "token a list": _flow(users="users:\n- name: it\n  user: {token: [a]}"),
    "token a date": _flow(users="users:\n- name: it\n  user: {token: 2024-01-01}"),
    "token with a colon": _flow(users="users:\n- name: it\n  user: {token: 'kubeconfig-u:abc'}"),
    "token of base 60": _flow(users="users:\n- name: it\n  user:\n    token: 12:30:45"),
    "token of octal": _flow(users="users:\n- name: it\n  user:\n    token: 0o17"),
    "token like a float": _flow(users="users:\n- name: it\n  user:\n    token: 1e3"),
    "token as a block": _flow(users="users:\n- name: it\n  user:\n    token: |\n      good"),
    "token folded": _flow(users="users:\n- name: it\n  user:\n    token: >-\n      good"),
    "token quoted": _flow(users='users:\n- name: it\n  user:\n    token: "go\\x6fd"'),
    "binary tag": _flow(users="users:\n- name: it\n  user:\n    token: !!binary Z29vZA=="),
    "unknown tag": _flow(users="users:\n- name: it\n  user:\n    token: !secret good"),
    "string tag": _flow(users="users:\n- name: it\n  user:\n    token: !!str 123"),
    "insecure yes": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        "insecure-skip-tls-verify: yes}"
    ),
    "insecure quoted": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        "insecure-skip-tls-verify: 'true'}"
    ),
    "insecure on": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        "insecure-skip-tls-verify: on}"
    ),
    "insecure 1": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        "insecure-skip-tls-verify: 1}"
    ),
    "insecure null": _flow(
        clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}', "
        f"certificate-authority-data: {_CA}, insecure-skip-tls-verify: null}}"
    ),
    "other cluster broken": _flow(
        clusters=f"clusters:\n- name: o\n  cluster: {{server: [1]}}\n"
        f"- name: it\n  cluster: {_CLUSTER}"
    ),
    "other cluster without a server": _flow(
        clusters=f"clusters:\n- name: o\n  cluster: {{}}\n- name: it\n  cluster: {_CLUSTER}"
    ),
    "other cluster's CA not base64": _flow(
        clusters="clusters:\n- name: o\n  cluster: {server: 'https://o', "
        f"certificate-authority-data: '!!'}}\n- name: it\n  cluster: {_CLUSTER}"
    ),
    "other cluster's CA file missing": _flow(
        clusters="clusters:\n- name: o\n  cluster: {server: 'https://o', "
        f"certificate-authority: /no/such}}\n- name: it\n  cluster: {_CLUSTER}"
    ),
    "server null": _flow(clusters="clusters:\n- name: it\n  cluster: {server: null}"),
    "JSON": '{"apiVersion":"v1","kind":"Config",'
    '"current-context":"it","contexts":[{"name":"it","context":{"cluster":"it","user":"it"}}],'
    f'"clusters":[{{"name":"it","cluster":{{"server":"{_SERVER}",'
    f'"certificate-authority-data":"{_CA}"}}}}],"users":[{{"name":"it","user":'
    '{"token":"good"}}]}',
    "JSON with a trailing comma": '{"apiVersion":"v1","kind":"Config","current-context":"it",'
    '"contexts":[{"name":"it","context":{"cluster":"it","user":"it",}}],'
    f'"clusters":[{{"name":"it","cluster":{{"server":"{_SERVER}",'
    f'"certificate-authority-data":"{_CA}"}}}}],"users":[{{"name":"it","user":'
    '{"token":"good"}}]}',
    "empty": "",
    "blank": "\n  \n",
    "comments only": "# nothing\n",
    "document marker only": "---\n",
    "null": "null\n",
    "braces": "{}\n",
    "a list": "[]\n",
    "a text": "hello\n",
    "not YAML": "{{{\n",
    "Latin-1": b"# caf\xe9\n" + _flow(clusters="", contexts="", users="").encode(),
    "a NUL": _GOOD + "# \0\n",
    "a control character": _GOOD + "# \x07\n",
    "an emoji": _GOOD + "# \U0001f600\n",
    "a name beyond ASCII": _GOOD.replace("name: it", "name: \u00fcber")
    .replace("cluster: it", "cluster: \u00fcber")
    .replace("user: it", "user: \u00fcber")
    .replace("current-context: it", "current-context: \u00fcber"),
    "1.9 MB": _GOOD + "# " + "x" * 1_900_000 + "\n",
    "400 clusters": _flow(
        clusters="clusters:\n"
        + "".join(
            f"- name: c{n}\n  cluster: {{server: 'https://c{n}.example.test', "
            f"certificate-authority-data: {'QUJD' * 800}}}\n"
            for n in range(400)
        )
        + f"- name: it\n  cluster: {_CLUSTER}"
    ),
    "base64 in lines": _flow(
        clusters=f"clusters:\n- name: it\n  cluster:\n    server: {_SERVER}\n"
        f"    certificate-authority-data: |\n      {_CA}"
    ),
}

_PART: Final = {
    "clusters": f"clusters:\n- name: it\n  cluster: {_CLUSTER}\n",
    "contexts": "contexts:\n- name: it\n  context: {cluster: it, user: it}\n",
    "users": "users:\n- name: it\n  user: {token: good}\n",
    "current": "current-context: it\n",
}
_OTHER: Final = _flow(
    users="users:\n- name: it\n  user: {token: other}",
    clusters=f"clusters:\n- name: it\n  cluster: {_ELSEWHERE}",
)

_MERGES: Final = (
    _several("good, then empty", _GOOD, ""),
    _several("empty, then good", "", _GOOD),
    _several("good, then comments", _GOOD, "# nothing\n"),
    _several("good, then null", _GOOD, "null\n"),
    _several("good, then broken", _GOOD, "{{{\n"),
    _several("broken, then good", "{{{\n", _GOOD),
    _several("good, then of another kind", _GOOD, "kind: List\napiVersion: v1\n"),
    _several("good, then a list", _GOOD, "[]\n"),
    _several("first wins", _GOOD, _OTHER),
    _several("first wins, the other way", _OTHER, _GOOD),
    _several("parts in four files", *_PART.values()),
    _several("parts in four files, backwards", *reversed(_PART.values())),
    _several("current-context of the first that has one", _flow(current=""), "current-context: it"),
    _several(
        "current-context empty in the first",
        _flow(current="current-context: ''"),
        "current-context: it",
    ),
    _several(
        "user's fields from two files",
        _flow(users="users:\n- name: it\n  user: {}"),
        _PART["users"],
    ),
    _several("user null in the first", _flow(users="users:\n- name: it"), _PART["users"]),
    _several(
        "cluster's fields from two files",
        _flow(clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}'}}"),
        _PART["clusters"],
    ),
    _several(
        "context's fields from two files",
        _flow(contexts="contexts:\n- name: it\n  context: {cluster: it}"),
        _PART["contexts"],
    ),
    _several("same file twice", _GOOD, env={"KUBECONFIG": "@dir@/config0:@dir@/config0"}),
    _several("missing, then good", _GOOD, env={"KUBECONFIG": "/no/such:@dir@/config0"}),
    _several("good, then missing", _GOOD, env={"KUBECONFIG": "@dir@/config0:/no/such"}),
    _several("good, then /dev/null", _GOOD, env={"KUBECONFIG": "@dir@/config0:/dev/null"}),
    _several("good, then a folder", _GOOD, env={"KUBECONFIG": "@dir@/config0:@dir@"}),
    _several("empty parts", _GOOD, env={"KUBECONFIG": "::@dir@/config0:"}),
    _several("only missing", env={"KUBECONFIG": "/no/such"}),
    _several("only /dev/null", env={"KUBECONFIG": "/dev/null"}),
    _several("KUBECONFIG a folder", env={"KUBECONFIG": "@dir@"}),
    _several("KUBECONFIG relative", _GOOD, env={"KUBECONFIG": "config0"}),
    _several("KUBECONFIG with a tilde", _GOOD, env={"KUBECONFIG": "~/config0"}),
    _several("KUBECONFIG with a space", env={"KUBECONFIG": " @dir@/config"}),
    Case("in the home folder", files={".kube/config": _GOOD}, env={"KUBECONFIG": None}),
    Case("KUBECONFIG empty", files={".kube/config": _GOOD}, env={"KUBECONFIG": ""}),
    Case("KUBECONFIG of colons", files={".kube/config": _GOOD}, env={"KUBECONFIG": ":"}),
    Case(
        "KUBECONFIG missing, home there",
        files={".kube/config": _GOOD},
        env={"KUBECONFIG": "/no/such"},
    ),
    Case("nothing at all", env={"KUBECONFIG": None}),
    Case("no home folder", env={"HOME": None}),
    Case(
        "relative files of each file",
        files={
            "one/config": _flow(
                clusters=f"clusters:\n- name: it\n  cluster: {{server: '{_SERVER}',"
                " certificate-authority: ca.crt}",
                users="",
            ),
            "one/ca.crt": "@text:ca.crt@",
            "two/config": "users:\n- name: it\n  user: {tokenFile: token}\n",
            "two/token": "good\n",
        },
        env={"KUBECONFIG": "@dir@/one/config:@dir@/two/config"},
    ),
    Case(
        "context asked for",
        use="second",
        text=_flow(
            contexts="contexts:\n- name: it\n  context: {cluster: none, user: it}\n- name: second\n"
            "  context: {cluster: it, user: it}"
        ),
    ),
    Case("context asked for that isn't there", use="none", text=_GOOD),
    Case("context with a namespace", context={"namespace": "cattle-system"}),
    Case("context with a namespace that can't be", context={"namespace": "Not/One"}),
    Case("context with an unknown key", context={"colour": "red"}),
)

CASES: Final = (
    *(Case(f"syntax: {name}", text=text) for name, text in _TEXTS.items()),
    *(replace(case, name=f"files: {case.name}") for case in _MERGES),
)
