"""`telemetryd support-bundle`: one archive for support, without secrets and names.

The running daemon gives its own parts over the control socket. The rest is found out here, as far
as this process may. All of it passes the scrubber once more, which knows what the configuration,
the kubeconfig and the environment hold.
"""

import argparse
import importlib.metadata
import io
import os
import platform
import re
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import anyio
import orjson

from telemetryd import __version__, revision
from telemetryd.atomicfile import write_file
from telemetryd.cli.commands import recall, source_of
from telemetryd.cli.output import complain, print_bytes, print_text
from telemetryd.config import Config, find_control_socket
from telemetryd.daemon import supportbundle as parts_of
from telemetryd.daemon.loop import PromptLoop
from telemetryd.daemon.restrictions import Restrictions
from telemetryd.doctor.access import plan_of
from telemetryd.doctor.examine import examine, render_report
from telemetryd.errors import ConfigError, TelemetrydError
from telemetryd.kube.files import read_small_file, why_unreadable
from telemetryd.kube.kubeconfig import named_files
from telemetryd.kube.yamljson import load_first_document
from telemetryd.scrubbing import Scrubber, words_of_url
from telemetryd.serve.control import client, protocol
from telemetryd.sharedread import SharedRead

VERSION: Final = 1
"""Of the manifest."""
PART_BYTES: Final = 8 * 1024 * 1024
"""Of each part; the archive holds ten of them at most."""
DAEMON_TIMEOUT_S: Final = 120.0
MANIFEST: Final = "manifest.json"
DOCTOR: Final = "doctor.txt"
VERSIONS: Final = "versions.json"
LEFT_OUT: Final = (
    "values of environment variables",
    "credentials, tokens, headers and keys, wherever they were",
    "Secrets and payloads, also those in the spool: their names and sizes alone are listed",
    "the Rancher server URL, the API server's host, the install UUID and the cluster UUID",
    "names of clusters, nodes, kubeconfig contexts and users, of 4 characters and more",
    "paths of receivers' URLs",
)

_ABOUT: Final = {
    VERSIONS: "of telemetryd, Python, the system and the libraries",
    parts_of.STATUS: "/status.json of the daemon; the Lease is its member leader",
    parts_of.METRICS: "/metrics of the daemon",
    parts_of.LOG: "the newest lines of the daemon's log, one JSON object each",
    parts_of.CONFIG: "telemetryd config show: each value in force, and where it is from",
    parts_of.ENVIRONMENT: "names of environment variables that count",
    parts_of.FILES: "names and sizes in the state folder, the spool included",
    DOCTOR: "telemetryd doctor",
}
_PATH_KEYS: Final = frozenset(
    {
        "apiVersion", "certificate-authority", "client-certificate", "client-key", "command",
        "certificate-authority-data", "installHint", "interactiveMode", "kind", "namespace",
        "provideClusterInfo", "tokenFile",
    }
)  # fmt: skip
"""Keys of a kubeconfig whose values are shown."""
_SECRET_VARIABLE: Final = re.compile(r"TOKEN|PASS|SECRET|CREDENTIAL|API_?KEY|DSN", re.IGNORECASE)
_PROXY_VARIABLE: Final = re.compile(r"\w+_PROXY", re.IGNORECASE)
_SHORT: Final = 8
"""Characters: shorter secrets are looked for as words."""

_NOW = time.time  # noqa: TID251 - the clock is chosen here


@dataclass(slots=True)
class _Words:
    """What this process knows of the site, and must not show."""

    words: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    secrets: list[str] = field(default_factory=list)

    def add_secret(self, secret: str) -> None:
        (self.words if len(secret) < _SHORT else self.secrets).append(secret.strip())

    def scrubber(self) -> Scrubber:
        secrets = [each for each in self.secrets if each]
        return Scrubber(self.words, names=self.names, secrets=secrets)


@dataclass(slots=True)
class _Bundle:
    """What is collected: the parts, and which are missing for what reason."""

    parts: dict[str, parts_of.Part] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def add(self, parts: Mapping[str, parts_of.Part]) -> None:
        for name, part in parts.items():
            if name not in self.parts and not isinstance(part, str):
                self.parts[name] = part
                self.missing.pop(name, None)
            elif name not in self.parts:
                self.missing[name] = str(part)


def write_bundle(options: argparse.Namespace) -> int:
    """Write the archive; 1 where a part is missing from it."""
    now = datetime.fromtimestamp(_NOW(), tz=UTC)
    stem = f"telemetryd-support-{now:%Y%m%dT%H%M%SZ}"
    target = options.output or f"{stem}.tar.gz"
    if target == "-" and sys.stdout.isatty():
        complain("telemetryd: standard output is a terminal: redirect it, or name a file")
        return 1
    if target != "-" and not options.force and os.path.lexists(target):
        complain(f"telemetryd: {target} exists: name another file, or add --force")
        return 1
    bundle = _Bundle()
    known = _Words()
    _ask_daemon(options, bundle, known)
    _look_around(options, bundle, known)
    content = _pack(bundle, known.scrubber(), stem, now)
    if target == "-":
        print_bytes(content)
    else:
        try:
            write_file(Path(target), content, replace=options.force)
        except OSError as error:
            why = "exists by now" if isinstance(error, FileExistsError) else why_unreadable(error)
            complain(f"telemetryd: {target} can't be written: {why}; --output - writes to stdout")
            return 1
        print_text(f"{target}\n")
    for name, why in bundle.missing.items():
        complain(f"telemetryd: without {name}: {known.scrubber().scrub(why)}")
    if set(bundle.missing) & {*parts_of.OF_DAEMON}:
        complain(
            "telemetryd: add the daemon's log yourself: journalctl -u telemetryd, or kubectl logs"
        )
    return 1 if bundle.missing else 0


def _ask_daemon(options: argparse.Namespace, bundle: _Bundle, known: _Words) -> None:
    """Its parts; of a daemon that doesn't know the command, at least its status."""
    paths = find_control_socket(source_of(options)).paths
    request = protocol.Request("support-bundle")
    try:
        answer = client.ask(paths, request, timeout_s=DAEMON_TIMEOUT_S)
        bundle.add(answer.result.get("parts") or {})
        hidden = answer.result.get("hidden") or {}
        known.words += hidden.get("words") or ()
        known.names += hidden.get("names") or ()
        why = answer.error
        if why:
            status = client.ask(paths, protocol.Request("status"))
            bundle.add({parts_of.STATUS: status.result} if status.ok else {})
    except TelemetrydError as error:
        why = str(error)
    for name in parts_of.OF_DAEMON:
        if name not in bundle.parts:
            bundle.missing.setdefault(name, why)


def _look_around(options: argparse.Namespace, bundle: _Bundle, known: _Words) -> None:
    """What needs no daemon."""
    known_of_environment(os.environ, known)
    bundle.add({VERSIONS: versions()})
    try:
        written, config, restrictions = recall(options)
    except ConfigError as error:
        why = "; ".join(map(str, error.problems))
        bundle.add({DOCTOR: [f"FAIL  configuration  {each}" for each in error.problems]})
        local = {parts_of.ENVIRONMENT: parts_of.variables(os.environ)}
        bundle.add({**local, parts_of.CONFIG: why, parts_of.FILES: why})
        known_of_kubeconfigs(None, known)
        return
    found = restrictions.statuses()
    known_of_config(written, known)
    known_of_kubeconfigs(written.kubernetes.kubeconfig, known)
    bundle.add({DOCTOR: _examine(config, restrictions)})
    source = source_of(options)
    file = source.read()
    local_facts = parts_of.LocalFacts(source, file, lambda _: config, found)
    wanted = {parts_of.CONFIG, parts_of.ENVIRONMENT, parts_of.FILES} - set(bundle.parts)
    if wanted:
        reads: parts_of.LocalReads = SharedRead("support bundle")
        bundle.add(anyio.run(parts_of.local_parts, local_facts, reads))


def _examine(config: Config, restrictions: Restrictions) -> parts_of.Part:
    try:
        report = anyio.run(
            partial(examine, config, plan_of(config), now=_NOW, restrictions=restrictions),
            backend_options={"loop_factory": PromptLoop},
        )
    except TelemetrydError as error:
        return f"the checks failed: {error}"
    return list(render_report(report))


def versions() -> dict[str, Any]:
    """Of this process, which is of the same installation as the daemon or of another."""
    try:
        required = importlib.metadata.requires("telemetryd") or []
    except importlib.metadata.PackageNotFoundError:
        required = []
    names = [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in required if ";" not in each]
    return {
        "telemetryd": __version__,
        "revision": revision() or None,
        "python": sys.version,
        "system": platform.platform(),
        "libraries": {name: importlib.metadata.version(name) for name in sorted(names)},
    }


# -- what must not be shown


def known_of_environment(environ: Mapping[str, str], known: _Words) -> None:
    """Values of variables that hold credentials, and the API server of a pod."""
    known.words.append(environ.get("KUBERNETES_SERVICE_HOST", ""))
    for name, value in environ.items():
        if _PROXY_VARIABLE.fullmatch(name):
            for each in words_of_url(value if "://" in value else f"http://{value}")[2:]:
                known.add_secret(each)
        elif _SECRET_VARIABLE.search(name) and not value.startswith("/"):
            known.add_secret(value)


def known_of_config(config: Config, known: _Words) -> None:
    """Identity and paths, and what is in the files that exporters read credentials from."""
    known.words += parts_of.words_of_config(config)
    for exporter in config.exporters:
        for key in ("headers_file", "bearer_token_file"):
            for line in _lines_of(getattr(exporter, key, None)):
                known.add_secret(line.partition(":")[2] if key == "headers_file" else line)
    for line in _lines_of(config.history.dsn_file):
        known.words += words_of_url(line)
        known.add_secret(line.rpartition("@")[0].rpartition(":")[2])


def known_of_kubeconfigs(kubeconfig: str | None, known: _Words) -> None:
    """Names, servers and credentials of the kubeconfigs that count."""
    try:
        paths = named_files(kubeconfig, os.environ)
    except ConfigError:
        return
    for path in paths:
        try:
            document = load_first_document(read_small_file(path))
        except (OSError, ValueError):
            continue
        for section, is_secret in (("clusters", False), ("contexts", False), ("users", True)):
            entries = document.get(section) if isinstance(document, dict) else None
            for entry in entries if isinstance(entries, list) else ():
                _add_entry(entry, known, is_secret=is_secret)


def _add_entry(entry: Any, known: _Words, *, is_secret: bool) -> None:
    if not isinstance(entry, dict):
        return
    if isinstance(entry.get("name"), str):
        known.words.append(entry["name"])
    for key, body in entry.items():
        for text in _texts(body) if key != "name" else ():
            if "://" in text:
                known.words += words_of_url(text)
            elif not is_secret or text in (body.get("username"), body.get("password")):
                known.words.append(text)
            if is_secret and len(text) >= _SHORT:
                known.add_secret(text)


def _texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for key, each in value.items():
                if key not in _PATH_KEYS:
                    yield from _texts(each)
        case list():
            for each in value:
                yield from _texts(each)


def _lines_of(path: str | None) -> list[str]:
    if path is None:
        return []
    try:
        return read_small_file(path).decode(errors="replace").splitlines()
    except (OSError, ValueError):
        return []


# -- the archive


def _pack(bundle: _Bundle, scrubber: Scrubber, stem: str, now: datetime) -> bytes:
    """The archive: the manifest, and each part cut to its limit."""
    files: dict[str, bytes] = {}
    listed = []
    for name in (each for each in _ABOUT if each in bundle.parts):
        whole = _render(name, scrubber.scrub_document(bundle.parts[name]))
        kept = _cut(whole)
        files[name] = kept
        listed.append(
            {
                "name": name,
                "bytes": len(kept),
                "bytes_left_out": len(whole) - len(kept),
                "about": _ABOUT[name],
            }
        )
    manifest = {
        "telemetryd_support_bundle": VERSION,
        "made_at": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "made_by": f"telemetryd {__version__}",
        "daemon_answered": parts_of.STATUS in bundle.parts,
        "parts": listed,
        "missing": [
            {"name": name, "why": scrubber.scrub(why)} for name, why in bundle.missing.items()
        ],
        "left_out": list(LEFT_OUT),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in ((MANIFEST, _render(MANIFEST, manifest)), *files.items()):
            member = tarfile.TarInfo(f"{stem}/{name}")
            member.size, member.mode, member.mtime = len(content), 0o600, int(now.timestamp())
            archive.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _render(name: str, part: Any) -> bytes:
    if name.endswith(".json"):
        return orjson.dumps(part, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return b"".join(_lines(name, part))


def _lines(name: str, part: Iterable[Any]) -> Iterator[bytes]:
    for each in part:
        is_json = name.endswith(".jsonl")
        line = orjson.dumps(each) if is_json else str(each).encode(errors="backslashreplace")
        yield line + b"\n"


def _cut(content: bytes) -> bytes:
    """At most ``PART_BYTES`` of it, in whole lines."""
    if len(content) <= PART_BYTES:
        return content
    return content[: content.rfind(b"\n", 0, PART_BYTES) + 1]
