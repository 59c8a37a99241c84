"""PostgreSQL killed, slow, shared, wrong or refused: one clear error, and nothing lost or twice."""

import gc
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from uuid import uuid4

import pytest

from telemetryd.errors import HistoryError
from telemetryd.history.database import STEPS
from telemetryd.history.postgresql import PostgresStore
from telemetryd.history.slots import (
    HOUR_S,
    MINUTE_S,
    Slot,
)
from tests.history.test_postgresql import EVER, part, store_by, store_of
from tests.history.test_sqlite import ONE, OTHER, START, minute
from tests.support.certificates import Authority
from tests.support.postgres import (
    OWNER_PASSWORD,
    Database,
    ask,
    dsn_of,
    pgbouncer,
)
from tests.support.processes import free_ports
from tests.support.waiting import until

ACCESS = Path(__file__).parents[2] / "deploy" / "postgresql" / "access.sql"


# asyncpg leaves a socket to the garbage collector where a TLS handshake fails.
pytestmark = [
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """Has each test clean up its own sockets."""
    yield
    gc.collect()


def test_kill_of_the_server_while_it_is_written_to_loses_no_slot_and_doubles_none(
    database: Database,
) -> None:
    server, rng = database.server, Random(7)
    done = threading.Event()
    failures: list[str] = []

    def write(store: PostgresStore, batch: str, slots: Sequence[Slot]) -> None:
        while True:
            try:
                store.write(ONE, slots, batch=batch)
            except HistoryError as error:
                failures.append(str(error))
                time.sleep(0.02)
            else:
                return

    def live() -> None:
        store, index = store_of(database, "a"), 0
        while not (done.is_set() and index % 2 == 0):
            # Two parts of a minute: one that came twice would make it longer.
            write(store, f"{index}", [part(index // 2, 20.0, index % 7)])
            index += 1

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(live)
        for _ in range(6):
            before = len(failures)
            until(lambda: store_of(database).known_until(ONE), "a first write")
            time.sleep(rng.random() * 0.2)
            server.kill()
            until(lambda at=before: writing.done() or len(failures) > at, "a failure")  # type: ignore[misc]
            assert not writing.done(), writing.exception()
            server.start()
        done.set()
        writing.result(60)
    minutes = store_of(database).read(ONE, MINUTE_S, *EVER)
    assert [each.start for each in minutes] == [
        START + index * MINUTE_S for index in range(len(minutes))
    ]
    assert {each.known_s for each in minutes} == {40.0}
    assert all("PostgreSQL at 127.0.0.1" in each for each in failures)


def test_behind_pgbouncer_in_transaction_mode_sessions_share_a_connection(
    database: Database,
) -> None:
    with pgbouncer(database) as dsn:
        installations = [str(uuid4()) for _ in range(6)]

        def live(installation: str) -> list[Slot]:
            store = store_by(database, dsn)
            for index in range(8):
                store.write(installation, [minute(index)], batch=f"{index}")
            return store.read(installation, MINUTE_S, *EVER)

        with ThreadPoolExecutor(6) as pool:
            found = list(pool.map(live, installations))
        psql = [str(database.server.bin / "psql"), "-XAt", dsn, "-c"]
        left = subprocess.check_output([*psql, "SELECT count(*) FROM pg_prepared_statements"])
    assert left == b"0\n", "another process would find its names taken"
    assert found == [[minute(index) for index in range(8)]] * 6


def test_server_that_is_slow_is_left_within_the_time_limit_and_writes_nothing_then(
    database: Database,
) -> None:
    store_of(database).write(ONE, [minute(0)])
    database.ask(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_sleep(600); RETURN NEW; END $$"
    )
    database.ask(
        "CREATE TRIGGER slow BEFORE INSERT ON telemetryd.slots FOR EACH ROW EXECUTE FUNCTION slow()"
    )
    with pytest.raises(HistoryError, match="takes too long"):
        store_of(database, timeout_s=1.0).write(ONE, [minute(1)], batch="slow")
    sessions = "SELECT pid FROM pg_stat_activity WHERE application_name = 'telemetryd'"
    until(lambda: not ask(database.server.admin("postgres"), sessions), "the end of its session")
    database.ask("DROP TRIGGER slow ON telemetryd.slots")
    store_of(database).write(ONE, [minute(1)], batch="slow")
    assert store_of(database).read(ONE, MINUTE_S, *EVER) == [minute(0), minute(1)]


@contextmanager
def silent() -> Iterator[int]:
    """A server that takes connections and never says a word; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


def test_server_that_never_answers_is_left_within_the_time_limit(database: Database) -> None:
    with silent() as port, pytest.raises(HistoryError, match="takes too long"):
        store_by(database, dsn_of(port, "any"), timeout_s=0.5).write(ONE, [minute(0)])


def test_certificate_of_the_server_is_checked_as_the_dsn_says(database: Database) -> None:
    store = store_by(
        database, f"{database.dsn()}?sslmode=verify-full&sslrootcert={database.server.ca}"
    )
    store.write(ONE, [minute(0)])
    assert store.read(ONE, MINUTE_S, *EVER) == [minute(0)]


def test_each_way_to_name_a_wrong_server_has_one_clear_error_without_the_password(
    database: Database, tmp_path: Path
) -> None:
    server, name = database.server.port, database.name
    foreign = Authority(tmp_path, "foreign")
    (nowhere,) = free_ports(1)
    for dsn, said in (
        (dsn_of(server, name, password="wrong-password-of-tests"), "check user and password"),
        (dsn_of(server, name, user="stranger"), "check user and password"),
        (dsn_of(server, "absent"), "create the database, or name another"),
        (dsn_of(nowhere, name), "can't be reached: .*check host, port and TLS"),
        (
            dsn_of(server, name) + f"?sslmode=verify-full&sslrootcert={foreign.ca}",
            "verify failed",
        ),
        (dsn_of(server, name) + "?sslmode=maybe", "check history.dsn_file"),
    ):
        for call in (lambda store: store.write(ONE, [minute(0)]), PostgresStore.installations):
            with pytest.raises(HistoryError, match=said) as caught:
                call(store_by(database, dsn))
            assert "127.0.0.1" in str(caught.value)
            for secret in ("wrong-password", OWNER_PASSWORD, "postgresql://"):
                assert secret not in str(caught.value)


# -- roles and versions


def add_role(database: Database, installation: str, *, writes: bool) -> PostgresStore:
    role = f"role_{uuid4().hex}"
    admin = database.server.admin(database.name)
    ask(admin, f"CREATE ROLE {role} LOGIN PASSWORD 'password-of-tests'")
    more = {"writes": "1"} if writes else {}
    done = database.server.psql(database.name, ACCESS, role=role, installation=installation, **more)
    assert (done.returncode, done.stderr) == (0, "")
    return store_by(database, database.dsn(role, "password-of-tests"))


def test_role_sees_and_writes_what_access_sql_grants_it_alone(database: Database) -> None:
    owner = store_of(database)
    for each in (ONE, OTHER):
        owner.write(each, [minute(0)])
    one = add_role(database, ONE, writes=False)
    every = add_role(database, "*", writes=False)
    daemon = add_role(database, OTHER, writes=True)
    assert every.installations() == [ONE, OTHER]
    assert one.installations() == [ONE]
    assert one.read(OTHER, MINUTE_S, *EVER) == []
    assert one.read(ONE, MINUTE_S, *EVER) == every.read(ONE, MINUTE_S, *EVER) == [minute(0)]
    for reader in (one, every):
        with pytest.raises(HistoryError, match=r"permission denied.*access\.sql"):
            reader.write(ONE, [minute(1)])
    daemon.write(OTHER, [minute(1)], batch="new")
    assert every.read(OTHER, MINUTE_S, *EVER) == [minute(0), minute(1)]
    assert daemon.note_digest(OTHER, START, "of a month")
    assert (one.digests(OTHER), every.digests(OTHER)) == ({}, {START: "of a month"})
    for stranger in (ONE, str(uuid4())):
        with pytest.raises(HistoryError, match=r"row-level security.*access\.sql"):
            daemon.write(stranger, [minute(1)], batch="new")
    daemon.clear()
    assert owner.installations() == [ONE]


def test_role_without_any_right_gets_one_clear_error(database: Database) -> None:
    role = f"role_{uuid4().hex}"
    ask(database.server.admin(database.name), f"CREATE ROLE {role} LOGIN PASSWORD 'of-tests'")
    stranger = store_by(database, database.dsn(role, "of-tests"))
    with pytest.raises(HistoryError, match=r"permission denied.*access\.sql"):
        stranger.write(ONE, [minute(0)])
    store_of(database).write(ONE, [minute(0)])
    with pytest.raises(HistoryError, match=r"permission denied.*access\.sql"):
        stranger.installations()


def test_replicas_that_begin_at_once_make_the_tables_once(database: Database) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda each: store_of(database, each).write(ONE, [minute(0)]), "abcdef"))
    assert database.ask("SELECT major, minor FROM telemetryd.version") == [(1, len(STEPS) - 1)]


def test_schema_of_a_newer_major_version_is_refused_and_left_alone(database: Database) -> None:
    store = store_of(database)
    store.write(ONE, [minute(0)])
    database.ask("UPDATE telemetryd.version SET major = 2")
    for call in (store.installations, partial(store.write, ONE, [minute(1)])):
        with pytest.raises(HistoryError, match=r"has schema 2\.0, and this telemetryd knows 1"):
            call()
    assert database.ask("SELECT count(*) FROM telemetryd.slots") == [(3,)]


def test_older_replica_goes_on_writing_in_a_schema_that_was_added_to(database: Database) -> None:
    store = store_of(database)
    store.write(ONE, [minute(0)])
    database.ask("ALTER TABLE telemetryd.slots ADD COLUMN later text NOT NULL DEFAULT ''")
    database.ask("UPDATE telemetryd.version SET minor = 9")
    store.write(ONE, [minute(1)])
    assert store.read(ONE, MINUTE_S, *EVER) == [minute(0), minute(1)]
    assert database.ask("SELECT major, minor FROM telemetryd.version") == [(1, 9)]


def test_schema_that_an_administrator_made_needs_no_right_to_the_database(
    database: Database,
) -> None:
    admin, role = database.server.admin(database.name), f"role_{uuid4().hex}"
    ask(admin, f"CREATE ROLE {role} LOGIN PASSWORD 'of-tests'")
    ask(admin, f"CREATE SCHEMA telemetryd AUTHORIZATION {role}")
    store = store_by(database, database.dsn(role, "of-tests"))
    store.write(ONE, [minute(0)])
    assert store.read(ONE, MINUTE_S, *EVER) == [minute(0)]


def test_two_days_that_waited_are_written_in_one_call(database: Database) -> None:
    waited = [minute(index, index % 50) for index in range(2 * 24 * 60)]
    store = store_of(database)
    store.write(ONE, waited, batch="all")
    assert store.read(ONE, MINUTE_S, *EVER) == waited
    assert len(store.read(ONE, HOUR_S, *EVER)) == 48
