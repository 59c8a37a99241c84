"""What one case is: files, environment, server; the cases themselves are in ``cases``.

Texts may hold ``@port@`` (the listener's), ``@dir@`` (the case's folder), ``@file:NAME@`` (a file
of ``certificates``), ``@b64:NAME@``, ``@text:NAME@`` and ``@json:NAME@`` (its content, the latter
escaped as in a JSON string).
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

GOOD_CLUSTER: Mapping[str, Any] = {
    "server": "https://127.0.0.1:@port@",
    "certificate-authority-data": "@b64:ca.crt@",
}
GOOD_USER: Mapping[str, Any] = {"token": "good"}
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_PLACE = re.compile(r"@(file|b64lines|b64|text|json):([^@]+)@")


@dataclass(frozen=True)
class Case:
    """One kubeconfig, environment and server.

    Attributes:
        name: Unique, says what is special.
        cluster: Over ``GOOD_CLUSTER``; a key that is None is left out.
        user: In place of ``GOOD_USER``.
        context: Over the context of both.
        text: The kubeconfig, in place of one of the above.
        files: More files by path in the case's folder; one that begins with ``#!`` can be run.
        env: Over ``KUBECONFIG``, ``HOME`` and ``PATH``; one that is None is left out.
        use: Context that is asked for; empty for the current one.
        server: File of ``certificates`` with the API server's certificate and key.
        answers: More of ``recorder.Answers``.
    """

    name: str
    cluster: Mapping[str, Any] = field(default_factory=dict)
    user: Any = None
    context: Mapping[str, Any] = field(default_factory=dict)
    text: str | bytes | None = None
    files: Mapping[str, str | bytes] = field(default_factory=dict)
    env: Mapping[str, str | None] = field(default_factory=dict)
    use: str = ""
    server: str = "leaf.pem"
    answers: Mapping[str, Any] = field(default_factory=dict)

    def kubeconfig(self) -> str | bytes:
        if self.text is not None:
            return self.text
        cluster = _given({**GOOD_CLUSTER, **self.cluster})
        return document(cluster, GOOD_USER if self.user is None else self.user, self.context)


def document(cluster: Any, user: Any, context: Mapping[str, Any] | None = None) -> str:
    """A kubeconfig of one context."""
    text: str = yaml.dump(  # type: ignore[no-untyped-call]
        {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [
                {
                    "name": "it",
                    "context": _given({"cluster": "it", "user": "it", **(context or {})}),
                }
            ],
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": user}],
        },
        Dumper=_DUMPER,
        sort_keys=False,
        width=10**6,
    )
    return text


def _given(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entries.items() if value is not None}


def filled(text: str, folder: Path, certificates: Path, port: int) -> str:
    """The text with what its places stand for."""

    def place(found: re.Match[str]) -> str:
        kind, path = found[1], certificates / found[2]
        if kind == "file":
            return str(path)
        content = path.read_bytes()
        if kind == "b64":
            return base64.b64encode(content).decode()
        if kind == "b64lines":  # each line of a quoted text goes on in the next, as Rancher has it
            return base64.encodebytes(content).decode().rstrip().replace("\n", "\\\n      ")
        text = content.decode()
        return json.dumps(text)[1:-1] if kind == "json" else text

    text = text.replace("@port@", str(port)).replace("@dir@", str(folder))
    return _PLACE.sub(place, text)


def written(case: Case, folder: Path, certificates: Path, port: int) -> dict[str, str]:
    """Write the case's files; its environment."""
    contents: dict[str, str | bytes] = {"config": case.kubeconfig(), **case.files}
    for name, content in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            raw = filled(content, folder, certificates, port).encode()
        else:
            raw = content
        path.write_bytes(raw)
        if raw.startswith(b"#!"):
            path.chmod(0o700)
    environ: dict[str, str | None] = {
        "KUBECONFIG": f"{folder}/config",
        "HOME": str(folder),
        "PATH": "/usr/bin:/bin",
        **case.env,
    }
    return {
        key: filled(value, folder, certificates, port)
        for key, value in environ.items()
        if value is not None
    }
