"""``[history]`` and ``[entitlement]``: what is kept of the fleet's past, and what is counted."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Annotated, ClassVar, Final

from telemetryd.config.schema import Rule
from telemetryd.config.storage import AbsolutePath
from telemetryd.config.values import DAY_S, YEAR_S, Boolean, Choice, Duration, Integer

_LONGEST_S = 10 * YEAR_S
_PRESET = "is what preset says already: leave it out, or leave out preset"


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryConfig:
    """``[history]``: what is kept of the fleet's past.

    Attributes:
        enabled: Keep counts of clusters, nodes, cores, memory and GPUs: no names, no URL.
        store: ``sqlite`` is a file in ``state_dir``, for one replica. ``postgresql`` is a database,
            for replicas, and for several installations in one place.
        dsn_file: File with the DSN of PostgreSQL, the only place of its password:
            ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE?sslmode=verify-full&sslrootcert=CA_FILE``.
        keep_s: How long counts of hours are kept; those of minutes are kept for 48 hours.
        keep_daily_s: How long counts of days are kept.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(
            ("keep_daily_s", "keep_s"),
            lambda daily_s, hourly_s: daily_s >= hourly_s,
            "must not be shorter than keep",
        ),
        Rule(
            ("store",),
            lambda store: store != "postgresql" or find_spec("asyncpg") is not None,
            'is "postgresql", and its driver is missing: install telemetryd[postgresql]',
        ),
        Rule(
            ("store", "dsn_file"),
            lambda store, dsn_file: store != "postgresql" or dsn_file is not None,
            'is "postgresql": give dsn_file too',
        ),
        Rule(
            ("dsn_file", "store"),
            lambda dsn_file, store: dsn_file is None or store == "postgresql",
            'is for PostgreSQL alone: set store = "postgresql", or leave out dsn_file',
        ),
    )

    enabled: Annotated[bool, Boolean()] = True
    store: Annotated[str, Choice(("sqlite", "postgresql"))] = "sqlite"
    dsn_file: Annotated[str | None, AbsolutePath()] = None
    keep_s: Annotated[float, Duration(2 * DAY_S, _LONGEST_S)] = 400 * DAY_S
    keep_daily_s: Annotated[float, Duration(2 * DAY_S, _LONGEST_S)] = 5 * YEAR_S


@dataclass(frozen=True, slots=True, kw_only=True)
class EntitlementConfig:
    """``[entitlement]``: how the subscription counts, in ``telemetryd report`` and in metrics.

    Attributes:
        preset: ``aws-csp``: a license for each 20 managed nodes, by the last count.
            ``payg-monthly``: the mean of a month's hourly counts of managed nodes, 5 at least.
            Left out: a rule of your own.
        unit: What is counted.
        scope: ``managed`` leaves out the local cluster and clusters that are being deleted.
        method: ``peak`` is the highest count, ``current`` the last one, and ``monthly_average`` the
            mean of the counts at the beginning of each hour.
        minimum: Units that are counted at least.
        per_license: Units of a license; what is begun counts in full.
        limit: Licenses that you have; left out: no limit.
    """

    RULES: ClassVar[tuple[Rule, ...]] = (
        Rule(("unit", "preset"), lambda own, preset: preset is None or own == "node", _PRESET),
        Rule(("scope", "preset"), lambda own, preset: preset is None or own == "managed", _PRESET),
        Rule(("method", "preset"), lambda own, preset: preset is None or own == "peak", _PRESET),
        Rule(("minimum", "preset"), lambda own, preset: preset is None or own == 0, _PRESET),
        Rule(("per_license", "preset"), lambda own, preset: preset is None or own == 1, _PRESET),
    )

    preset: Annotated[str | None, Choice(("aws-csp", "payg-monthly"))] = None
    unit: Annotated[str, Choice(("node", "core", "cluster"))] = "node"
    scope: Annotated[str, Choice(("managed", "all"))] = "managed"
    method: Annotated[str, Choice(("peak", "current", "monthly_average"))] = "peak"
    minimum: Annotated[int, Integer(0, 10**9)] = 0
    per_license: Annotated[int, Integer(1, 10**6)] = 1
    limit: Annotated[int | None, Integer(0, 10**9)] = None


DEFAULT_HISTORY: Final = HistoryConfig()
DEFAULT_ENTITLEMENT: Final = EntitlementConfig()
