"""What each command does before and after the part of telemetryd that it calls.

Those parts are imported when a command needs them. The arguments are in ``arguments``.
"""

import argparse
import gc
import logging
import os
import random
import sys
import time
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

import anyio

from telemetryd import logs
from telemetryd.cli.output import complain, print_bytes, print_document, print_text
from telemetryd.config import (
    Config,
    ConfigSource,
    find_control_socket,
    read_switches,
)
from telemetryd.errors import ConfigError, NoDaemon, NotReady, SpoolError, TelemetrydError

if TYPE_CHECKING:
    from telemetryd.daemon.preview import Collected, Preview
    from telemetryd.daemon.restrictions import Restrictions

EX_NO_DAEMON = 2
"""No daemon answers on the control socket."""

WATCH_S = 2.0
"""Between two looks of ``ctl status --watch``."""
MOST_DEMO_NODES = 200_000
"""The embedded API server has every node in memory, some 5 KB each."""
GC_THRESHOLD = 10_000
"""Objects made until the youngest are searched for cycles, of which a daemon makes few: with the
interpreter's 700 its imports alone are searched a hundred times."""
_CLEAR = "\033[H\033[2J"
"""Of a terminal: to its top, which is emptied."""

log = logging.getLogger(__name__)

_NOW = time.time  # noqa: TID251 - the clock is chosen here


def source_of(options: argparse.Namespace) -> ConfigSource:
    """Where the configuration of this command line comes from."""
    return ConfigSource(options.config, os.environ, assignments=tuple(options.assignments))


def recall(options: argparse.Namespace) -> "tuple[Config, Config, Restrictions]":
    """The configuration as it is written, as a start would have it in force, and what restricts it.

    Nothing is stored.

    Raises:
        ConfigError: A start would be refused.
    """
    from telemetryd.daemon.restrictions import recall_restrictions  # noqa: PLC0415

    source = source_of(options)
    file = source.read()
    written = source.parse(file)
    # A one-shot command says what went wrong on stdout or at its end: the log would say it again.
    logs.configure(written.log_format, "critical", sys.stderr, os.environ)
    restrictions = anyio.run(partial(recall_restrictions, source, file, written, now=_NOW))
    try:
        config = restrictions.restrict(written, source.statements(file))
    except ConfigError as error:
        raise ConfigError(*(file.locate(each) for each in error.problems)) from error
    return written, config, restrictions


def _recall_for_spool(options: argparse.Namespace) -> "tuple[Config, Config, Restrictions]":
    """The same; payloads are neither shown nor sent where it isn't known what must be omitted.

    Raises:
        ConfigError: A start would be refused.
        SpoolError: What is remembered can't be read.
    """
    recalled = recall(options)
    if recalled[2].damaged:
        raise SpoolError(recalled[2].damaged)
    return recalled


def _configure_logging(config: Config) -> None:
    logs.configure(config.log_format, config.log_level, sys.stderr, os.environ)


def run(options: argparse.Namespace) -> int:
    """Run the daemon in the foreground.

    Raises:
        ConfigError: It can't be started with this configuration.
    """
    source = source_of(options)
    file = source.read()
    config = source.parse(file)
    _configure_logging(config)
    for line in source.conflicts(file):
        log.warning("setting ignored detail=%s", line)
    gc.set_threshold(GC_THRESHOLD)
    from telemetryd.kube.lightimport import import_aiohttp  # noqa: PLC0415 - the first of them

    import_aiohttp()
    from telemetryd.daemon.app import run_daemon  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.daemon.loop import PromptLoop, use_one_heap  # noqa: PLC0415
    from telemetryd.daemon.reload import Reloader  # noqa: PLC0415

    gc.freeze()  # modules stay: no later search goes through them
    use_one_heap()

    async def run() -> None:
        reloader = Reloader(source, file, configure_logging=_configure_logging, now=_NOW)
        await run_daemon(
            config,
            reloader,
            early=options.early_signals,
            now=_NOW,
            rng=random.Random(),
            dry_run=options.dry_run,
        )

    try:
        anyio.run(run, backend_options={"loop_factory": PromptLoop})
    except ConfigError as error:
        raise ConfigError(*(file.locate(each) for each in error.problems)) from error
    return 0


def payload(options: argparse.Namespace) -> int:
    """Print what would be sent."""
    collected, preview, notes = _collect(options)
    print_bytes(collected.payload.body + b"\n")
    if plugin := preview.disclosure.plugin:
        given = ", ".join(key for key, _ in preview.disclosure.given)
        notes.append(f"the plug-in {plugin} decides what it sends; it is given {given}")
    return _complain_of(collected, notes)


def offline_request(options: argparse.Namespace) -> int:
    """Print the request for offline registration, where SUSE takes one."""
    collected, _, notes = _collect(options)
    from telemetryd.export.payloads.scc import (  # noqa: PLC0415
        render_offline_request,
    )
    from telemetryd.gather.consumer import RancherBuild, explain_build  # noqa: PLC0415

    if collected.build is not RancherBuild.PRIME:
        why = "there is no Rancher here"
        if collected.build is not None:
            why = explain_build(collected.build, "rancher")
        complain(f"telemetryd: no offline request: SUSE registers Rancher Prime alone; {why}")
        return 1
    print_bytes(render_offline_request(collected.payload) + b"\n")
    return _complain_of(collected, notes)


def _complain_of(collected: "Collected", notes: Iterable[str]) -> int:
    """Say what there is to know of what was printed; the exit status."""
    for note in notes:
        complain(f"telemetryd: {note}")
    for reason in collected.incomplete_reasons:
        complain(f"telemetryd: incomplete: {reason}")
    return 1 if collected.incomplete_reasons else 0


def _collect(options: argparse.Namespace) -> "tuple[Collected, Preview, list[str]]":
    """Collect once: what came, what was asked for, and what would keep a daemon from sending it.

    Raises:
        TelemetrydError: It isn't complete within the timeout.
    """
    written, config, restrictions = recall(options)
    from telemetryd.daemon.loop import PromptLoop  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.daemon.preview import (  # noqa: PLC0415
        collect_once,
        preview_of_exporter,
        preview_of_format,
    )

    preview = (
        preview_of_exporter(written, options.exporter)
        if options.exporter
        else preview_of_format(options.format)
    )
    collect = partial(
        collect_once,
        config,
        read_switches(os.environ),
        preview=preview,
        timeout_s=options.timeout,
        now=_NOW,
        rng=random.Random(),
        remembered=restrictions.remembered_switches,
    )
    try:
        collected = anyio.run(collect, backend_options={"loop_factory": PromptLoop})
    except NotReady as error:
        raise TelemetrydError(f"{error}: ask telemetryd doctor what is wrong") from error
    notes = []
    if not collected.switches.enabled:
        notes.append(f"a daemon sends nothing of this: {collected.switches.detail}")
    if restrictions.damaged:
        notes.append(restrictions.damaged)
    allowed = {each.name for each in config.exporters if each.enabled}
    if options.exporter and options.exporter not in allowed:
        notes.append(f"exporter {options.exporter} is off")
    return collected, preview, notes


def healthcheck(options: argparse.Namespace) -> int:
    """Ask the daemon's own ``/livez``."""
    source = source_of(options)
    config = source.parse(source.read())
    from telemetryd.serve.http.health import check_health  # noqa: PLC0415 - heavy imports on demand

    server = config.server
    tls = server.tls_cert_file is not None
    problem = check_health(server.listen_host, server.listen_port, tls=tls)
    if problem:
        complain(f"telemetryd: {problem}")
    return 1 if problem else 0


def ctl(options: argparse.Namespace) -> int:
    """Have a running daemon do or show something."""
    place = find_control_socket(source_of(options))
    from telemetryd.serve.control import client, protocol, text  # noqa: PLC0415

    request = protocol.Request(options.ctl, options.name, options.verify, options.wait)
    while True:
        try:
            answer = client.ask(place.paths, request)
        except NoDaemon as error:
            if place.error is not None:
                raise place.error from error  # it may be what hides the place
            complain(f"telemetryd: {error}")
            return EX_NO_DAEMON
        shown = text.render_result(request, answer, as_json=options.json)
        print_text(f"{_CLEAR}{shown}" if options.watch and sys.stdout.isatty() else shown)
        for line in text.render_complaints(request, answer):
            complain(f"telemetryd: {line}")
        if not (options.watch and answer.ok):
            return 0 if answer.ok else 1
        time.sleep(WATCH_S)


def doctor(options: argparse.Namespace) -> int:
    """Print what is wrong, and the fix."""
    config, _, restrictions = recall(options)
    from telemetryd.daemon.loop import PromptLoop  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.doctor.access import plan_of  # noqa: PLC0415
    from telemetryd.doctor.examine import (  # noqa: PLC0415
        describe_report,
        examine,
        render_report,
    )

    report = anyio.run(
        partial(examine, config, plan_of(config), now=_NOW, restrictions=restrictions),
        backend_options={"loop_factory": PromptLoop},
    )
    if options.json:
        print_document(describe_report(report))
    else:
        print_text("".join(f"{line}\n" for line in render_report(report)))
    return 1 if report.failed else 0


def support_bundle(options: argparse.Namespace) -> int:
    """Write an archive for support."""
    from telemetryd.cli.supportbundle import write_bundle  # noqa: PLC0415 - heavy imports on demand

    return write_bundle(options)


def spool_list(options: argparse.Namespace) -> int:
    """Show what is undelivered."""
    from telemetryd.daemon import spoolcommands  # noqa: PLC0415 - heavy imports on demand

    found = spoolcommands.read_spool(_recall_for_spool(options)[1])
    if options.json:
        print_document([spoolcommands.describe(each) for each in found])
    elif found:
        print_text(spoolcommands.render_table(found))
    return 0


def spool_export(options: argparse.Namespace) -> int:
    """Copy what is undelivered."""
    from telemetryd.daemon import spoolcommands  # noqa: PLC0415 - heavy imports on demand

    found = spoolcommands.read_spool(_recall_for_spool(options)[1])
    for entry in spoolcommands.export_spool(found, options.folder, options.names):
        print(f"{entry.file} {entry.bytes}")
    return 0


def spool_replay(options: argparse.Namespace) -> int:
    """Send what was copied.

    Raises:
        SpoolError: Collection is off.
    """
    written, config, restrictions = _recall_for_spool(options)
    logs.configure(config.log_format, "error", sys.stderr, os.environ)
    from telemetryd.daemon import spoolcommands  # noqa: PLC0415 - heavy imports on demand
    from telemetryd.daemon.restrictions import switches_of  # noqa: PLC0415

    switches = switches_of(
        read_switches(os.environ),
        enabled=written.enabled,
        opted_out=False,
        remembered=bool(restrictions.remembered_switches),
    )
    if not switches.enabled:
        raise SpoolError(f"collection is {switches.detail}: nothing is sent")
    payloads = spoolcommands.read_export(options.folder)
    choose = spoolcommands.choose_exporter(config, options.exporter)
    for entry, _ in payloads:
        choose(entry.exporter)  # nothing is sent where not all can be
    failed = []

    def done(entry: spoolcommands.ManifestEntry, error: TelemetrydError | None) -> None:
        if error is None:
            print(f"{entry.file} delivered", flush=True)
        else:
            failed.append(entry)
            complain(f"telemetryd: {entry.file}: {error}")

    omitted = config.privacy.omitted
    anyio.run(partial(spoolcommands.replay, payloads, choose, omitted=omitted, now=_NOW, done=done))
    return 1 if failed else 0


def demo(options: argparse.Namespace) -> int:
    """Run the whole against an embedded API server."""
    if (asked := options.clusters * options.nodes) > MOST_DEMO_NODES:
        options.parser.error(
            f"--clusters times --nodes is {asked}: must be at most {MOST_DEMO_NODES}"
        )
    logs.configure("auto", "warning", sys.stderr, os.environ)
    from telemetryd.demo.command import run_demo  # noqa: PLC0415 - heavy imports on demand

    exports = anyio.run(
        partial(
            run_demo,
            clusters=options.clusters,
            nodes=options.nodes,
            churn_per_s=options.churn,
            duration_s=options.duration,
            now=_NOW,
        )
    )
    return 0 if exports else 1
