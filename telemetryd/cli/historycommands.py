"""The commands about the past: ``telemetryd report`` and ``telemetryd history``.

They ask the daemon that runs, over its control socket. Where none runs that keeps its state in the
folder of this configuration, they open the store themselves.
"""

import argparse
import time
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from telemetryd.cli.commands import source_of
from telemetryd.cli.output import complain, print_bytes, print_text
from telemetryd.config import Config, ConfigSource, find_control_socket
from telemetryd.errors import HistoryError, NoDaemon

if TYPE_CHECKING:
    from telemetryd.cli.daemonhistory import DaemonHistory
    from telemetryd.history.report import Report
    from telemetryd.history.store import HistoryStore
    from telemetryd.history.transfer import History

_HOURLY_S = 45 * 86_400.0
"""The chart of a longer time has a point for each day."""
_NOW = time.time  # noqa: TID251 - the clock is chosen here


def report(options: argparse.Namespace) -> int:
    """Print usage over time, by the rule of the entitlement.

    Raises:
        HistoryError: There is none, or it can't be read or written.
    """
    from telemetryd.history.store import instance_of  # noqa: PLC0415

    source = source_of(options)
    config = source.parse(source.read())
    daemon = _daemon(source, config)
    instance = daemon.instance if daemon else instance_of(config)
    with closing(daemon or _read_store(config)) as store:
        known = store.installations()
        if not known:
            raise HistoryError("nothing is known yet: the daemon writes each minute what it saw")
        reports = [
            _report(options, config, store, each, instance)
            for each in (known if options.all_installations else known[-1:])
        ]
        text = _render(options, reports, store).encode()
    if options.output is None:
        print_bytes(text)
    else:
        _write(options.output, text)
    if not any(each.periods for each in reports):
        complain("telemetryd: nothing is known of that time")
        return 1
    return 0


def _report(
    options: argparse.Namespace, config: Config, store: "History", installation: str, instance: str
) -> "Report":
    from telemetryd.history.entitlement import entitlement_of  # noqa: PLC0415
    from telemetryd.history.report import make_report  # noqa: PLC0415

    now = datetime.fromtimestamp(_NOW(), UTC)
    return make_report(
        store,
        entitlement_of(config.entitlement),
        installation=installation,
        instance=instance,
        begin=options.begin,
        end=min(options.end or now, now),
        by=options.by,
    )


def _render(options: argparse.Namespace, reports: "list[Report]", store: "History") -> str:
    from telemetryd.history import documents  # noqa: PLC0415

    match options.format:
        case "html":
            return _render_html(reports, store)
        case "json" if options.all_installations:
            return documents.to_json([documents.document(each) for each in reports])
        case "json":
            return documents.to_json(documents.document(reports[-1]))
        case "csv":
            return documents.to_csv(reports)
        case _:
            return "\n".join(documents.to_text(each) for each in reports)


def _render_html(reports: "list[Report]", store: "History") -> str:
    """One file of one installation.

    Raises:
        HistoryError: There are several.
    """
    from telemetryd.history.charts import points_of  # noqa: PLC0415
    from telemetryd.history.html import to_html  # noqa: PLC0415
    from telemetryd.history.slots import DAY_S, HOUR_S  # noqa: PLC0415

    if len(reports) > 1:
        raise HistoryError("--format html shows one installation: leave out --all-installations")
    (report,) = reports
    if not report.periods:
        return to_html(report, ())
    begin, end = report.periods[0].begin, report.made
    size_s = HOUR_S if (end - begin).total_seconds() <= _HOURLY_S else DAY_S
    of, series = report.installation, report.rule.series
    slots = store.read(of, size_s, begin.timestamp(), end.timestamp(), series=series)
    return to_html(report, points_of(slots, report.rule, begin, end, size_s))


def _write(place: Path, text: bytes) -> None:
    try:
        place.write_bytes(text)
    except OSError as error:
        raise HistoryError(f"{place}: {error.strerror}: name another file") from error


def history_export(options: argparse.Namespace) -> int:
    """Print the slots as JSON lines."""
    from telemetryd.history.transfer import lines_of  # noqa: PLC0415

    source = source_of(options)
    config = source.parse(source.read())
    with closing(_daemon(source, config) or _read_store(config)) as store:
        for line in lines_of(store):
            print_bytes(line)
    return 0


def history_import(options: argparse.Namespace) -> int:
    """Merge the slots of another store, all of them or none."""
    from telemetryd.history.transfer import read_lines  # noqa: PLC0415

    found = read_lines(options.file)
    source = source_of(options)
    with closing(_write_store(source.parse(source.read()))) as store:
        count = store.merge(found)
    print_text(f"{count} slots merged\n")
    return 0


def history_migrate(options: argparse.Namespace) -> int:
    """Make the store, or bring it to the form of this version."""
    source = source_of(options)
    with closing(_write_store(source.parse(source.read()))) as store:
        print_text(f"the history has schema {store.migrate()}\n")
    return 0


def history_prune(options: argparse.Namespace) -> int:
    """Remove what is older than is kept, or everything."""
    source = source_of(options)
    config = source.parse(source.read())
    with closing(_daemon(source, config) or _write_store(config)) as store:
        if options.all:
            store.clear()
            print_text("everything removed\n")
        else:
            kept = config.history
            removed = store.prune(_NOW(), keep_s=kept.keep_s, keep_daily_s=kept.keep_daily_s)
            print_text(f"{removed} slots removed\n")
    return 0


def _daemon(source: ConfigSource, config: Config) -> "DaemonHistory | None":
    """The daemon that keeps this history; None where none runs, or it can't show it.

    Raises:
        CommandRefused: One runs that this user may not ask.
    """
    from telemetryd.cli.daemonhistory import DaemonHistory  # noqa: PLC0415

    # One of another version may not know the question, and then the store is all there is.
    with suppress(NoDaemon, HistoryError):
        return DaemonHistory(find_control_socket(source).paths, config.state_dir)
    return None


def _read_store(config: Config) -> "HistoryStore":
    from telemetryd.history.store import read_history  # noqa: PLC0415

    return read_history(config)


def _write_store(config: Config) -> "HistoryStore":
    from telemetryd.history.store import COMMAND_S, open_history  # noqa: PLC0415

    return open_history(config, now=_NOW, timeout_s=COMMAND_S)
