"""Which commands and arguments there are, and their help; what they do is in ``commands``."""

import argparse
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from telemetryd import __version__
from telemetryd.cli import commands, configcommands, historycommands
from telemetryd.cli.parser import Parser, add_globals, adder
from telemetryd.config import FORMATS, Assignment, parse_duration

_MOST_DIGITS = 4


def build_parser() -> Parser:
    """The parser of the whole command line; what it parses has a ``command`` to call.

    It is good for one command line.
    """
    parser = Parser(
        prog="telemetryd",
        description="Counts the clusters, nodes, cores and memory of a Rancher or of one Kubernetes"
        " cluster, and reports the totals to where you want them.",
        epilog="example: telemetryd demo --duration 20s",
    )
    given: list[Assignment] = []
    parser.add_argument("-V", "--version", action="version", version=f"telemetryd {__version__}")
    parser.set_defaults(command=partial(_help, parser), parser=parser, assignments=given)
    add_globals(parser, given, None)
    add = adder(parser, given, required=False)
    run = add("run", "the daemon, in the foreground", "telemetryd run --dry-run", commands.run)
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="write nothing anywhere, and log what would have been written",
    )
    check = add(
        "check-config",
        "say whether the daemon would start with this configuration, and print every error",
        "telemetryd check-config --config config.example.toml",
        configcommands.check_config,
    )
    check.add_argument(
        "--offline", action="store_true", help="look at the text alone, at no file that it names"
    )
    config = add(
        "config",
        "show the configuration in force",
        "telemetryd config show",
        configcommands.config_show,
    )
    adder(config, given)(
        "show",
        "print every value in force, and where it is from",
        "telemetryd config show --set log_level=debug",
        configcommands.config_show,
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
    report = add(
        "report",
        "print usage over time, by the rule of your subscription",
        "telemetryd report --by month --format csv",
        historycommands.report,
    )
    history = add(
        "history",
        "what is kept of the fleet's past",
        "telemetryd history export > history.jsonl",
        historycommands.history_export,
    )
    schema = add(
        "schema",
        "print the JSON Schema of a payload, of the configuration file or of the report",
        "telemetryd schema --config > config.schema.json",
        configcommands.schema,
        has_config=False,
    )
    add(
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
    completion = add(
        "completion",
        "print a completion script for a shell",
        "telemetryd completion bash > /etc/bash_completion.d/telemetryd",
        configcommands.completion,
    )
    completion.add_argument(
        "shell", choices=tuple(configcommands.COMPLETIONS), help="of these shells"
    )
    add(
        "version",
        "print the version, the revision and the Python that runs it",
        "telemetryd version",
        configcommands.version,
    )
    _add_ctl(ctl, given)
    _add_spool(spool, given)
    _add_report(report)
    _add_history(history, given)
    _add_support_bundle(add)
    for sub in (check, doctor):
        sub.add_argument("--json", action="store_true", help="as a document")
    chosen = payload.add_mutually_exclusive_group()
    of = schema.add_mutually_exclusive_group()
    of.add_argument(
        "--config", dest="of_config", action="store_true", help="of the configuration file"
    )
    of.add_argument(
        "--report",
        dest="of_report",
        action="store_true",
        help="of what report --format json prints",
    )
    for place in (chosen, of):
        place.add_argument("--format", choices=FORMATS, **_with("scc", "payload format"))
    chosen.add_argument(
        "--exporter", metavar="NAME", type=_name, help="what this configured exporter would send"
    )
    for sub in (payload, offline):
        sub.add_argument(
            "--timeout", type=_duration, **_with("30s", "how long to wait for the sync")
        )
    offline.set_defaults(format="scc", exporter=None)
    demo.add_argument("--clusters", type=_count, **_with(20, "managed clusters"))
    demo.add_argument("--nodes", type=_count, **_with(15, "nodes in each of them"))
    demo.add_argument("--churn", type=_rate, **_with(5.0, "changes a second"))
    demo.add_argument("--duration", type=_duration, **_with("0s", "0s runs until stopped"))
    return parser


def _with(default: object, about: str) -> dict[str, Any]:
    """An option's default, which its help says."""
    return {"default": default, "help": f"{about} (default {default})"}


def _help(parser: argparse.ArgumentParser, _options: argparse.Namespace) -> int:
    parser.print_help()
    return 0


def _add_ctl(ctl: argparse.ArgumentParser, given: list[Assignment]) -> None:
    add = partial(adder(ctl, given), command=commands.ctl)
    status = add("status", "show informers and exporters", "telemetryd ctl status --json")
    status.add_argument("--json", action="store_true", help="the document of /status.json")
    status.add_argument(
        "--watch", action="store_true", help="show it again every 2 s, until interrupted"
    )
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
    exporters[-1].add_argument(
        "--wait", action="store_true", help="wait for the end of the run, and print its result"
    )
    for sub in exporters:
        sub.add_argument("name", metavar="NAME", type=_name, help="of the exporter")
    cache = add(
        "cache",
        "show how many objects are held of a resource, and a digest of their names, as JSON",
        "telemetryd ctl cache nodes.management.cattle.io --verify",
    )
    cache.add_argument("name", metavar="RESOURCE", type=_name, help="such as those of the status")
    cache.add_argument("--verify", action="store_true", help="compare with a fresh list")
    everything = [status, reload, opt_in, *exporters, cache]
    for sub in everything:
        sub.set_defaults(ctl=sub.prog.rpartition(" ")[2])
    ctl.set_defaults(name="", verify=False, json=False, wait=False, watch=False)


def _add_spool(spool: argparse.ArgumentParser, given: list[Assignment]) -> None:
    add = adder(spool, given)
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
    exported.add_argument(
        "names", metavar="NAME", nargs="*", default=[], help="of exporters; default: all"
    )
    replayed = add(
        "replay",
        "send copies by the http exporter of the configuration, as it would have",
        "telemetryd spool replay /media/usb/telemetry --exporter receiver",
        commands.spool_replay,
    )
    replayed.add_argument("folder", metavar="DIR", type=Path, help="of an export, or its manifest")
    replayed.add_argument("--exporter", metavar="NAME", help="default: that of the same name")


def _add_report(report: argparse.ArgumentParser) -> None:
    for option, dest, about in (
        ("--from", "begin", "first day, such as 2026-01-31; default: the first that is known"),
        ("--to", "end", "the day after the last one; default: now"),
    ):
        report.add_argument(option, dest=dest, metavar="DATE", type=_day, help=about)
    report.add_argument("--by", choices=("day", "month"), **_with("month", "in UTC"))
    formats = ("text", "csv", "json", "html")
    report.add_argument("--format", choices=formats, **_with("text", "of it"))
    report.add_argument("--output", metavar="FILE", type=Path, help="default: standard output")
    report.add_argument(
        "--all-installations", action="store_true", help="not only that which was last seen"
    )


def _add_history(history: argparse.ArgumentParser, given: list[Assignment]) -> None:
    add = adder(history, given)
    add(
        "export",
        "print everything that is kept, as JSON lines",
        "telemetryd history export > history.jsonl",
        historycommands.history_export,
    )
    imported = add(
        "import",
        "merge an export of another store into this one",
        "telemetryd history import history.jsonl",
        historycommands.history_import,
    )
    imported.add_argument("file", metavar="FILE", type=Path, help="of an export")
    add(
        "migrate",
        "make the store, or bring it to the form of this version, before a daemon does",
        "telemetryd history migrate",
        historycommands.history_migrate,
    )
    pruned = add(
        "prune",
        "remove what is older than is kept",
        "telemetryd history prune --all",
        historycommands.history_prune,
    )
    pruned.add_argument("--all", action="store_true", help="everything, whatever its age")


def _day(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a day such as 2026-01-31") from None


def _add_support_bundle(add: Callable[..., argparse.ArgumentParser]) -> None:
    bundle = add(
        "support-bundle",
        "write the daemon's redacted log, status, configuration and metrics into one archive",
        "telemetryd support-bundle --output bundle.tar.gz",
        commands.support_bundle,
    )
    bundle.add_argument(
        "--output",
        metavar="FILE",
        help="- for stdout; default: telemetryd-support-TIME.tar.gz in this folder",
    )
    bundle.add_argument("--force", action="store_true", help="replace the file if it exists")


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
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        raise argparse.ArgumentTypeError(f"{text!r} isn't a whole number from 0 to 9999")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate <= 10_000:  # noqa: PLR2004 - faster than the embedded server can serve
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of changes a second, 0 to 10000")
    return rate
