"""The command line: arguments in, exit status out; data to stdout, everything else to stderr.

What a command does lives in ``daemon``, ``doctor`` and ``demo``, which are imported when they are
asked for, so that ``--help``, ``schema`` and ``check-config`` don't pay for the whole daemon.
"""

import argparse
import os
import random
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import anyio
import orjson

from telemetryd import __version__, logs
from telemetryd.config import (
    FORMATS,
    Config,
    ConfigSource,
    find_config,
    find_control_socket,
    load_config,
    parse_duration,
    read_switches,
)
from telemetryd.daemon.earlysignals import EarlySignals
from telemetryd.errors import ConfigError, NoDaemon, TelemetrydError

EX_NO_DAEMON = 2
"""No daemon answers on the control socket."""
EX_USAGE = 64
"""The command line was wrong (sysexits.h)."""
EX_INTERRUPTED = 130
"""SIGINT, as a shell tells it."""
EX_CONFIG = 78
"""The configuration can't be used (sysexits.h); the unit doesn't restart on it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        self.exit(EX_USAGE, f"{self.prog}: {message}\n")


def run_command(arguments: Sequence[str], early: EarlySignals) -> int:
    """Run one command line without its program name; returns the exit status.

    Args:
        arguments: The command line.
        early: Signals that came since the process began, for the daemon.
    """
    options = _parser().parse_args(arguments, argparse.Namespace(early_signals=early))
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigError as error:
        for problem in error.problems:
            _complain(str(problem))
        return EX_CONFIG
    except TelemetrydError as error:
        _complain(f"telemetryd: {error}")
        return 1
    except KeyboardInterrupt:
        return EX_INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has left: nothing more to say, to anyone.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _complain(line: str) -> None:
    """Say what went wrong; the journal takes the prefix as the line's priority."""
    prefix = "<3>" if logs.is_journal(sys.stderr, os.environ) else ""
    print(f"{prefix}{line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="telemetryd",
        description="Watches a Rancher management cluster and keeps its SCC telemetry Secret true.",
        epilog="example: telemetryd demo --duration 20s",
    )
    parser.add_argument("--version", action="version", version=f"telemetryd {__version__}")
    add = _adder(parser)
    run = add("run", "the daemon, in the foreground", "telemetryd run", _run)
    check = add(
        "check-config",
        "read and validate the configuration, and print every error",
        "telemetryd check-config --config config.example.toml",
        _check_config,
    )
    payload = add(
        "payload",
        "sync once and print exactly what would be sent; send nothing",
        "telemetryd payload --format fleet --timeout 10s",
        _payload,
    )
    schema = add(
        "schema", "print the JSON Schema of a payload", "telemetryd schema --format fleet", _schema
    )
    health = add(
        "healthcheck",
        "ask the running daemon's own /livez",
        "telemetryd healthcheck",
        _healthcheck,
    )
    doctor = add(
        "doctor",
        "check everything the daemon needs, and say what is missing and how to mend it",
        "telemetryd doctor --config /etc/telemetryd/config.toml",
        _doctor,
    )
    demo = add(
        "demo",
        "run the whole daemon against an embedded API server with a Rancher-like fleet",
        "telemetryd demo --clusters 20 --nodes 15 --churn 5 --duration 20s",
        _demo,
    )
    ctl = add(
        "ctl",
        "ask or command the running daemon over its control socket",
        "telemetryd ctl status",
        _ctl,
    )
    spool = add(
        "spool",
        "undelivered payloads on disk, for hand-over by other means",
        "telemetryd spool export /media/usb/telemetry",
        _spool_list,
    )
    for sub in (run, check, payload, health, doctor, *_add_ctl(ctl), *_add_spool(spool)):
        sub.add_argument("--config", metavar="FILE", help="configuration file (TOML)")
    for sub in (payload, schema):
        sub.add_argument("--format", choices=FORMATS, default="scc", help="payload format")
    payload.add_argument(
        "--timeout", type=_duration, default="30s", help="how long to wait for the sync"
    )
    demo.add_argument("--clusters", type=_count, default=20, help="managed clusters")
    demo.add_argument("--nodes", type=_count, default=15, help="nodes in each of them")
    demo.add_argument("--churn", type=_rate, default=5.0, help="changes a second")
    demo.add_argument("--duration", type=_duration, default="0s", help="0s runs for ever")
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
    add = partial(_adder(ctl), command=_ctl)
    status = add("status", "show informers and exporters", "telemetryd ctl status --json")
    status.add_argument("--json", action="store_true", help="the document of /status.json")
    reload = add("reload", "reload the configuration and say what changed", "telemetryd ctl reload")
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
    everything = [status, reload, *exporters, cache]
    for sub in everything:
        sub.set_defaults(ctl=sub.prog.rpartition(" ")[2])
    ctl.set_defaults(name="", verify=False, json=False)
    return everything


def _add_spool(spool: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    add = _adder(spool)
    listed = add("list", "show what waits on disk", "telemetryd spool list --json", _spool_list)
    listed.add_argument("--json", action="store_true", help="as a document")
    exported = add(
        "export",
        "copy what waits into a folder, with a manifest",
        "telemetryd spool export /media/usb/telemetry",
        _spool_export,
    )
    exported.add_argument("folder", metavar="DIR", type=Path, help="made where it is missing")
    exported.add_argument("names", metavar="NAME", nargs="*", help="of exporters; default: all")
    replayed = add(
        "replay",
        "send copies by the http exporter of the configuration, as it would have",
        "telemetryd spool replay /media/usb/telemetry --exporter receiver",
        _spool_replay,
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


def _load(options: argparse.Namespace) -> Config:
    return load_config(find_config(options.config, os.environ), os.environ)


def _configure_logging(config: Config) -> None:
    logs.configure(config.log_format, config.log_level, sys.stderr, os.environ)


def _run(options: argparse.Namespace) -> int:
    source = ConfigSource(options.config, os.environ)
    file = source.read()
    config = source.parse(file)
    _configure_logging(config)
    from telemetryd.daemon.app import run_daemon  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.daemon.loop import PromptLoop  # noqa: PLC0415
    from telemetryd.daemon.reload import Reloader  # noqa: PLC0415

    now = time.time  # noqa: TID251 - the clock is chosen here

    async def run() -> None:
        reloader = Reloader(source, file, configure_logging=_configure_logging, now=now)
        await run_daemon(
            config, reloader, early=options.early_signals, now=now, rng=random.Random()
        )

    anyio.run(run, backend_options={"loop_factory": PromptLoop})
    return 0


def _check_config(options: argparse.Namespace) -> int:
    path = find_config(options.config, os.environ)
    load_config(path, os.environ)
    print(f"{path or 'defaults'}: valid")
    return 0


def _payload(options: argparse.Namespace) -> int:
    config = _load(options)
    # A one-shot command says what went wrong at its end: progress would only be in the way.
    logs.configure(config.log_format, "error", sys.stderr, os.environ)
    from telemetryd.daemon.loop import PromptLoop  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.daemon.oneshot import collect_once  # noqa: PLC0415

    collected = anyio.run(
        partial(
            collect_once,
            config,
            read_switches(os.environ),
            payload_format=options.format,
            timeout_s=options.timeout,
            now=time.time,  # noqa: TID251 - the clock is chosen here
            rng=random.Random(),
        ),
        backend_options={"loop_factory": PromptLoop},
    )
    sys.stdout.buffer.write(collected.payload.body + b"\n")
    sys.stdout.buffer.flush()
    if not collected.switches.enabled:
        _complain(f"telemetryd: a daemon sends nothing of this: {collected.switches.detail}")
    for reason in collected.incomplete_reasons:
        _complain(f"telemetryd: incomplete: {reason}")
    return 1 if collected.incomplete_reasons else 0


def _schema(options: argparse.Namespace) -> int:
    from telemetryd.export.formats import PAYLOAD_FORMATS  # noqa: PLC0415 - heavy imports on demand

    schema = PAYLOAD_FORMATS[options.format].schema()
    sys.stdout.buffer.write(orjson.dumps(schema, option=orjson.OPT_INDENT_2) + b"\n")
    sys.stdout.buffer.flush()
    return 0


def _healthcheck(options: argparse.Namespace) -> int:
    config = _load(options)
    from telemetryd.serve.health import check_health  # noqa: PLC0415 - heavy imports on demand

    problem = check_health(config.server.listen_host, config.server.listen_port)
    if problem:
        _complain(f"telemetryd: {problem}")
    return 1 if problem else 0


def _ctl(options: argparse.Namespace) -> int:
    place = find_control_socket(ConfigSource(options.config, os.environ))
    from telemetryd.serve import control_client, control_protocol, control_text  # noqa: PLC0415

    request = control_protocol.Request(options.ctl, options.name, options.verify)
    try:
        answer = control_client.ask(place.paths, request)
    except NoDaemon as error:
        if place.error is not None:
            raise place.error from error  # it may be what hides the place
        _complain(f"telemetryd: {error}")
        return EX_NO_DAEMON
    shown = control_text.render_result(request, answer, as_json=options.json)
    sys.stdout.buffer.write(shown.encode(errors="backslashreplace"))
    sys.stdout.buffer.flush()
    for line in control_text.render_complaints(request, answer):
        _complain(f"telemetryd: {line}")
    return 0 if answer.ok else 1


def _doctor(options: argparse.Namespace) -> int:
    config = _load(options)
    # What is wrong is told on stdout, once: the log would say it again.
    logs.configure(config.log_format, "critical", sys.stderr, os.environ)
    from telemetryd.daemon.loop import PromptLoop  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.doctor.access import plan_of  # noqa: PLC0415
    from telemetryd.doctor.examine import examine  # noqa: PLC0415
    from telemetryd.doctor.findings import render_report  # noqa: PLC0415

    report = anyio.run(
        partial(examine, config, plan_of(config), now=time.time),  # noqa: TID251 - the clock is chosen here
        backend_options={"loop_factory": PromptLoop},
    )
    text = "".join(f"{line}\n" for line in render_report(report))
    sys.stdout.buffer.write(text.encode(errors="backslashreplace"))
    sys.stdout.buffer.flush()
    return 1 if report.failed else 0


def _spool_list(options: argparse.Namespace) -> int:
    from telemetryd.daemon import handover  # noqa: PLC0415 - heavy imports on demand

    found = handover.read_spool(_load(options))
    if options.json:
        documents = [handover.describe(each) for each in found]
        sys.stdout.buffer.write(orjson.dumps(documents, option=orjson.OPT_INDENT_2) + b"\n")
    elif found:
        sys.stdout.write(handover.render_table(found))
    sys.stdout.flush()
    return 0


def _spool_export(options: argparse.Namespace) -> int:
    from telemetryd.daemon import handover  # noqa: PLC0415 - heavy imports on demand

    found = handover.read_spool(_load(options))
    for entry in handover.export_spool(found, options.folder, options.names):
        print(f"{entry.file} {entry.bytes}")
    return 0


def _spool_replay(options: argparse.Namespace) -> int:
    config = _load(options)
    logs.configure(config.log_format, "error", sys.stderr, os.environ)
    from telemetryd.daemon import handover  # noqa: PLC0415 - heavy imports on demand

    payloads = handover.read_export(options.folder)
    choose = handover.choose_exporter(config, options.exporter)
    for entry, _ in payloads:
        choose(entry.exporter)  # nothing is sent where not all can be
    failed = []

    def done(entry: handover.Entry, error: TelemetrydError | None) -> None:
        if error is None:
            print(f"{entry.file} delivered", flush=True)
        else:
            failed.append(entry)
            _complain(f"telemetryd: {entry.file}: {error}")

    now = time.time  # noqa: TID251 - the clock is chosen here
    anyio.run(partial(handover.replay, payloads, choose, now=now, done=done))
    return 1 if failed else 0


def _demo(options: argparse.Namespace) -> int:
    logs.configure("auto", "warning", sys.stderr, os.environ)
    from telemetryd.demo.command import run_demo  # noqa: PLC0415 - heavy imports on demand

    exports = anyio.run(
        partial(
            run_demo,
            clusters=options.clusters,
            nodes=options.nodes,
            churn_per_s=options.churn,
            duration_s=options.duration,
            now=time.time,  # noqa: TID251 - the clock is chosen here
        )
    )
    return 0 if exports else 1
