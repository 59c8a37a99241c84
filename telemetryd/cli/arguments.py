"""Which commands and arguments there are, and their help; what they do is in ``commands``."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from telemetryd import __version__
from telemetryd.cli import commands
from telemetryd.config import FORMATS, parse_duration

EX_USAGE = 64
"""The command line was wrong (sysexits.h)."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; what it parses has a ``command`` to call."""
    parser = _Parser(
        prog="telemetryd",
        description="Watches a Rancher management cluster and updates its SCC telemetry Secret.",
        epilog="example: telemetryd demo --duration 20s",
    )
    parser.add_argument("--version", action="version", version=f"telemetryd {__version__}")
    add = _adder(parser)
    run = add("run", "the daemon, in the foreground", "telemetryd run", commands.run)
    check = add(
        "check-config",
        "read and validate the configuration, and print every error",
        "telemetryd check-config --config config.example.toml",
        commands.check_config,
    )
    payload = add(
        "payload",
        "sync once and print exactly what would be sent; send nothing",
        "telemetryd payload --exporter scc --timeout 10s",
        commands.payload,
    )
    offline = add(
        "offline-request",
        "print the offline registration request that SUSE Customer Center takes",
        "telemetryd offline-request > request.txt",
        commands.offline_request,
    )
    schema = add(
        "schema",
        "print the JSON Schema of a payload",
        "telemetryd schema --format fleet",
        commands.schema,
    )
    health = add(
        "healthcheck",
        "ask the running daemon's own /livez",
        "telemetryd healthcheck",
        commands.healthcheck,
    )
    doctor = add(
        "doctor",
        "check everything the daemon needs, and say what is missing and how to fix it",
        "telemetryd doctor --config /etc/telemetryd/config.toml",
        commands.doctor,
    )
    demo = add(
        "demo",
        "run the whole daemon against an embedded API server with a Rancher-like fleet",
        "telemetryd demo --clusters 20 --nodes 15 --churn 5 --duration 20s",
        commands.demo,
    )
    ctl = add(
        "ctl",
        "ask or command the running daemon over its control socket",
        "telemetryd ctl status",
        commands.ctl,
    )
    spool = add(
        "spool",
        "undelivered payloads on disk, for hand-over by other means",
        "telemetryd spool export /media/usb/telemetry",
        commands.spool_list,
    )
    for sub in (run, check, payload, offline, health, doctor, *_add_ctl(ctl), *_add_spool(spool)):
        sub.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
    chosen = payload.add_mutually_exclusive_group()
    for place in (chosen, schema):
        place.add_argument("--format", choices=FORMATS, default="scc", help="payload format")
    chosen.add_argument(
        "--exporter", metavar="NAME", type=_name, help="what this configured exporter would send"
    )
    for sub in (payload, offline):
        sub.add_argument(
            "--timeout", type=_duration, default="30s", help="how long to wait for the sync"
        )
    offline.set_defaults(format="scc", exporter=None)
    demo.add_argument("--clusters", type=_count, default=20, help="managed clusters")
    demo.add_argument("--nodes", type=_count, default=15, help="nodes in each of them")
    demo.add_argument("--churn", type=_rate, default=5.0, help="changes a second")
    demo.add_argument("--duration", type=_duration, default="0s", help="0s runs until stopped")
    return parser


def _adder(parser: argparse.ArgumentParser) -> Callable[..., argparse.ArgumentParser]:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)

    def add(name: str, about: str, example: str, command: Any) -> argparse.ArgumentParser:
        sub = commands.add_parser(
            name,
            help=about,
            description=about[0].upper() + about[1:] + ".",
            epilog=f"example: {example}",
        )
        sub.set_defaults(command=command)
        return sub

    return add


def _add_ctl(ctl: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    add = partial(_adder(ctl), command=commands.ctl)
    status = add("status", "show informers and exporters", "telemetryd ctl status --json")
    status.add_argument("--json", action="store_true", help="the document of /status.json")
    reload = add("reload", "reload the configuration and say what changed", "telemetryd ctl reload")
    opt_in = add(
        "opt-in",
        "end every remembered restriction, and say what is still written",
        "telemetryd ctl opt-in",
    )
    exporters = [
        add(name, about, f"telemetryd ctl {name} scc")
        for name, about in (
            ("start", "start an exporter that was stopped"),
            ("stop", "stop an exporter, once its run is over; it stays stopped until started"),
            ("restart", "stop an exporter and start it again"),
            ("trigger", "have an exporter run now; prints the run's id"),
        )
    ]
    for sub in exporters:
        sub.add_argument("name", metavar="NAME", type=_name, help="of the exporter")
    cache = add(
        "cache",
        "show what is held of a resource, as JSON",
        "telemetryd ctl cache nodes.management.cattle.io --verify",
    )
    cache.add_argument("name", metavar="RESOURCE", type=_name, help="such as those of the status")
    cache.add_argument("--verify", action="store_true", help="compare with a fresh list")
    everything = [status, reload, opt_in, *exporters, cache]
    for sub in everything:
        sub.set_defaults(ctl=sub.prog.rpartition(" ")[2])
    ctl.set_defaults(name="", verify=False, json=False)
    return everything


def _add_spool(spool: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    add = _adder(spool)
    listed = add(
        "list", "show what waits on disk", "telemetryd spool list --json", commands.spool_list
    )
    listed.add_argument("--json", action="store_true", help="as a document")
    exported = add(
        "export",
        "copy what waits into a folder, with a manifest",
        "telemetryd spool export /media/usb/telemetry",
        commands.spool_export,
    )
    exported.add_argument("folder", metavar="DIR", type=Path, help="made where it is missing")
    exported.add_argument("names", metavar="NAME", nargs="*", help="of exporters; default: all")
    replayed = add(
        "replay",
        "send copies by the http exporter of the configuration, as it would have",
        "telemetryd spool replay /media/usb/telemetry --exporter receiver",
        commands.spool_replay,
    )
    replayed.add_argument("folder", metavar="DIR", type=Path, help="of an export, or its manifest")
    replayed.add_argument("--exporter", metavar="NAME", help="default: that of the same name")
    return [listed, exported, replayed]


def _name(text: str) -> str:
    if not 0 < len(text) <= 512:  # noqa: PLR2004 - what the daemon takes
        raise argparse.ArgumentTypeError("must have 1 to 512 characters")
    return text


def _duration(text: str) -> float:
    if text in {"0", "0s"}:
        return 0.0
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 0 up")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 10_000:  # noqa: PLR2004 - faster than the embedded server can serve
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of changes a second, 0 to 10000")
    return rate
