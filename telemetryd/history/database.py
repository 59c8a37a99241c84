"""A PostgreSQL database that holds the history: connections, the schema, and errors in plain words.

Each call has a connection and a transaction of its own. So nothing is left behind where the server
or PgBouncer cuts one off, a thousand daemons hold no idle connections, and each call reads a DSN
that was changed.

A minor version of the schema only adds, with defaults, so that an older replica goes on writing.
Whatever it could not go on with is a new major version, which it refuses.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVar

import anyio
import asyncpg

from telemetryd.bounds import free_text
from telemetryd.errors import HistoryError
from telemetryd.history.dsn import Dsn, read_dsn
from telemetryd.redaction import OURS

T = TypeVar("T")

CONNECT_S: Final = 5.0
LOCK_S: Final = 5.0
"""Another replica may write for so long."""
_CLOSE_S: Final = 1.0
_OF_DRIVER: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_LOCK: Final = 0x746C6D6474656C65
"""Of ``pg_advisory_xact_lock``: one replica makes the tables, the others wait for it."""

_FIRST: Final = """
CREATE TABLE telemetryd.version (
  one boolean PRIMARY KEY DEFAULT true CHECK (one), major integer NOT NULL, minor integer NOT NULL);
INSERT INTO telemetryd.version (major, minor) VALUES (1, 0);
CREATE TABLE telemetryd.installations (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, uuid text NOT NULL UNIQUE);
CREATE TABLE telemetryd.slots (
  installation bigint NOT NULL, size integer NOT NULL, start bigint NOT NULL,
  known_s float8 NOT NULL, complete_s float8 NOT NULL, complete boolean NOT NULL,
  off_s float8 NOT NULL, down_s float8 NOT NULL, incomplete_s float8 NOT NULL,
  clock_s float8 NOT NULL, version text NOT NULL, epoch bigint NOT NULL, writer text NOT NULL,
  PRIMARY KEY (installation, size, start));
CREATE TABLE telemetryd.cells (
  installation bigint NOT NULL, size integer NOT NULL, start bigint NOT NULL, series text NOT NULL,
  high bigint NOT NULL, low bigint, first bigint, last bigint, mean float8,
  PRIMARY KEY (installation, size, start, series));
CREATE TABLE telemetryd.writers (
  installation bigint NOT NULL, writer text NOT NULL, batch text NOT NULL,
  at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (installation, writer));
CREATE TABLE telemetryd.digests (
  installation bigint NOT NULL, start bigint NOT NULL, digest text NOT NULL,
  PRIMARY KEY (installation, start));
CREATE TABLE telemetryd.access (
  role text NOT NULL, installation text NOT NULL, PRIMARY KEY (role, installation));

ALTER TABLE telemetryd.installations ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetryd.slots ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetryd.cells ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetryd.writers ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetryd.digests ENABLE ROW LEVEL SECURITY;
ALTER TABLE telemetryd.access ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON telemetryd.access FOR SELECT USING (role = current_user);
CREATE POLICY granted ON telemetryd.installations USING (EXISTS (
  SELECT FROM telemetryd.access AS a
   WHERE a.role = current_user AND a.installation IN ('*', uuid)));
CREATE POLICY granted ON telemetryd.slots
  USING (installation IN (SELECT id FROM telemetryd.installations));
CREATE POLICY granted ON telemetryd.cells
  USING (installation IN (SELECT id FROM telemetryd.installations));
CREATE POLICY granted ON telemetryd.digests
  USING (installation IN (SELECT id FROM telemetryd.installations));
CREATE POLICY granted ON telemetryd.writers
  USING (installation IN (SELECT id FROM telemetryd.installations));
"""
"""The role that makes them owns them, and sees and writes all installations."""

STEPS: Final = (_FIRST,)
"""By minor version: what makes it of the one before."""
SCHEMA_VERSION: Final = (1, len(STEPS) - 1)


def run(
    dsn_file: str, work: Callable[[Any], Awaitable[T]], *, timeout_s: float, writes: bool = False
) -> T | None:
    """What the work returns, in a transaction; None where there are no tables to read. Blocks.

    Args:
        dsn_file: See ``read_dsn``.
        work: Gets an asyncpg connection.
        timeout_s: For all of it.
        writes: Tables that are missing are made; otherwise nothing can be changed.

    Raises:
        HistoryError: Whatever went wrong; nothing is changed, unless the connection was lost while
            the transaction was committed.
    """
    dsn = read_dsn(dsn_file)
    with _translated(dsn):
        return anyio.run(_connected, dsn, work, timeout_s, writes)


async def _connected(
    dsn: Dsn,
    work: Callable[[Any], Awaitable[T]],
    timeout_s: float,
    writes: bool,  # noqa: FBT001 (anyio.run gives no keywords)
) -> T | None:
    loop = asyncio.get_running_loop()
    # The driver's errors are raised: what it leaves behind in this loop says nothing more.
    loop.set_exception_handler(lambda *_: None)
    end = loop.time() + timeout_s
    # A named statement outlives its transaction, but PgBouncer gives the next one another
    # connection: without the cache no statement has a name.
    connection = await asyncpg.connect(
        dsn.text,
        password=dsn.password,
        timeout=min(CONNECT_S, timeout_s),
        statement_cache_size=0,
        server_settings={"application_name": "telemetryd"},
    )
    # A cancellation would have the driver ask the server to cancel, and wait for that.
    limit = loop.call_at(end, connection.terminate)
    try:
        return await _transact(connection, work, timeout_s, writes=writes)
    except _OF_DRIVER as error:
        if loop.time() >= end:
            raise TimeoutError from error
        raise
    finally:
        limit.cancel()
        with suppress(OSError, *_OF_DRIVER):
            # What is done is done, however the connection ends.
            await connection.close(timeout=_CLOSE_S)


async def _transact(
    connection: Any, work: Callable[[Any], Awaitable[T]], timeout_s: float, *, writes: bool
) -> T | None:
    isolation = "read_committed" if writes else "repeatable_read"
    async with connection.transaction(isolation=isolation, readonly=not writes):
        # What a process that is gone had locked, the server lets go after this time.
        await connection.execute(
            f"SET LOCAL statement_timeout = {timeout_s * 1000:.0f};"
            f"SET LOCAL lock_timeout = {LOCK_S * 1000:.0f};"
            f"SET LOCAL idle_in_transaction_session_timeout = {timeout_s * 1000:.0f}"
        )
        if writes:
            await _make_schema(connection)
        elif await _version(connection) is None:
            return None
        return await work(connection)


async def _version(connection: Any) -> tuple[int, int] | None:
    """Of the schema, None where there is none.

    Raises:
        HistoryError: This telemetryd is too old for it.
    """
    if await connection.fetchval("SELECT to_regclass('telemetryd.version')::text") is None:
        return None
    row = await connection.fetchrow("SELECT major, minor FROM telemetryd.version")
    if row is None:  # the table was made after this transaction's snapshot
        return None
    major, minor = row
    if major > SCHEMA_VERSION[0]:
        raise HistoryError(
            f"the database has schema {major}.{minor}, and this telemetryd knows"
            f" {SCHEMA_VERSION[0]}: run the newer telemetryd that made it, or name another database"
        )
    return major, minor


async def _make_schema(connection: Any) -> None:
    """Make what is missing, if another replica doesn't."""
    found = await _version(connection)
    if found is not None and found >= SCHEMA_VERSION:
        return
    await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
    if await connection.fetchval("SELECT to_regnamespace('telemetryd')::text") is None:
        await connection.execute("CREATE SCHEMA telemetryd")
    found = await _version(connection)
    made = 0 if found is None else found[1] + 1
    for step in STEPS[made:]:
        await connection.execute(step)
    if made < len(STEPS):
        await connection.execute("UPDATE telemetryd.version SET minor = $1", SCHEMA_VERSION[1])


@contextmanager
def _translated(dsn: Dsn) -> Iterator[None]:
    """One error of ours for each of the driver's.

    Raises:
        HistoryError: Whatever went wrong.
    """
    where = f"PostgreSQL at {dsn.server}"
    try:
        yield
    except TimeoutError as error:
        raise HistoryError(f"{where} takes too long: check the server and the network") from error
    except OSError as error:
        why = _text(error.strerror or str(error))
        raise HistoryError(f"{where} can't be reached: {why}: check host, port and TLS") from error
    except (*_OF_DRIVER, ValueError) as error:
        raise HistoryError(f"{where}: {_text(str(error))}: {_fix(error)}") from error


def _text(text: str) -> str:
    return free_text(OURS.redact(text)).rstrip(".")


def _fix(error: Exception) -> str:
    match error:
        case asyncpg.InvalidAuthorizationSpecificationError():
            return "check user and password in history.dsn_file"
        case asyncpg.InvalidCatalogNameError():
            return "create the database, or name another in history.dsn_file"
        case asyncpg.InsufficientPrivilegeError():
            return "grant this role what deploy/postgresql/access.sql lists"
        case asyncpg.QueryCanceledError() | asyncpg.LockNotAvailableError():
            return "it takes too long: check the server"
        case asyncpg.ClientConfigurationError():
            return "check history.dsn_file"
        case _:
            return "check the server's log"
