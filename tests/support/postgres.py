"""A real PostgreSQL and PgBouncer, of Debian's packages, in a folder of their own."""

import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import asyncpg
import pytest

from tests.support.certificates import Authority
from tests.support.processes import free_ports
from tests.support.waiting import until

ADMIN, ADMIN_PASSWORD = "admin", "admin-password-of-tests"
OWNER, OWNER_PASSWORD = "telemetryd", "owner%password-of-tests"
_TLS_FILES = (("cert", "crt"), ("key", "key"))
_NO_SERVER = "no PostgreSQL here: `apt install postgresql pgbouncer`"


def dsn_of(port: int, database: str, user: str = OWNER, password: str = OWNER_PASSWORD) -> str:
    return f"postgresql://{user}:{password.replace('%', '%25')}@127.0.0.1:{port}/{database}"


def ask(dsn: str, query: str, *values: object) -> list[Any]:
    """The rows of a query, each as a tuple."""

    async def run() -> list[Any]:
        connection = await asyncpg.connect(dsn)
        try:
            return [tuple(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    return anyio.run(run)


class PostgresServer:
    """A server whose process a test may kill and start again.

    Attributes:
        port: On loopback.
        ca: PEM of the authority that signed its certificate.
        bin: Where its programs are.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        self.bin = programs
        self.folder = folder
        (self.port,) = free_ports(1)
        self._data = folder / "data"
        self._log = folder / "log"
        self._user = "postgres" if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        secret = folder / "secret"
        secret.write_text(ADMIN_PASSWORD)
        authority = Authority(folder)
        pair = authority.issue("server")
        pair.key.chmod(0o600)
        self.ca = authority.ca
        if self._user:
            for each in (folder, secret, pair.key):
                shutil.chown(each, self._user, self._user)
        how = ("-U", ADMIN, "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C")
        initdb: list[str | Path] = [
            self.bin / "initdb",
            "-D",
            self._data,
            f"--pwfile={secret}",
            *how,
        ]
        subprocess.run(initdb, user=self._user, check=True, capture_output=True, cwd=folder)

    def start(self) -> None:
        tls = (f"ssl_{each}_file={self.folder}/server.{end}" for each, end in _TLS_FILES)
        settings = ("fsync=off", "ssl=on", *tls, "max_connections=40", "unix_socket_directories=")
        options = [word for each in settings for word in ("-c", each)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.bin / "postgres", "-D", self._data, "-p", str(self.port), *options],
                user=self._user,
                group=self._user,
                extra_groups=[] if self._user else None,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        until(self._answers, "PostgreSQL", more=self._log.read_text, ended=self._process.poll)

    def run(self, argv: list[str | Path]) -> "subprocess.Popen[bytes]":
        """Another program as the user of the server."""
        return subprocess.Popen(argv, user=self._user, cwd=self.folder, stderr=subprocess.DEVNULL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """Ends it at once, with all its sessions (SIGQUIT would write nothing; SIGINT is clean)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """As the kernel would; its children notice and end, too."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        self._process.wait(60)
        group = self._children()
        until(lambda: not any(map(_alive, group)), "the sessions of PostgreSQL")

    def _children(self) -> list[int]:
        """What still runs on the data folder: sessions outlive a killed server for a moment."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (each / "cwd").resolve() == self._data.resolve():
                    found.append(int(each.name))
        return found

    def _answers(self) -> bool:
        try:
            return bool(ask(self.admin("postgres"), "SELECT 1"))
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return False

    def admin(self, database: str) -> str:
        """The DSN of who may do anything."""
        return dsn_of(self.port, database, ADMIN, ADMIN_PASSWORD)

    def psql(
        self, database: str, file: Path, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        """Runs a script as the owner of the tables."""
        named = [word for each in variables.items() for word in ("-v", "{}={}".format(*each))]
        return subprocess.run(
            [self.bin / "psql", "-X", "-q", *named, "-f", file, dsn_of(self.port, database)],
            capture_output=True,
            text=True,
            check=False,
        )


def _alive(process: int) -> bool:
    return Path(f"/proc/{process}").exists()


class Database:
    """A database of its own for one test, whose owner has the right to all of it.

    Attributes:
        dsn_file: Leads to it as the owner.
    """

    def __init__(self, server: PostgresServer, name: str, folder: Path) -> None:
        self.server = server
        self.name = name
        self.dsn_file = folder / "history.dsn"
        self.dsn_file.write_text(self.dsn() + "\n")

    def dsn(self, user: str = OWNER, password: str = OWNER_PASSWORD) -> str:
        return dsn_of(self.server.port, self.name, user, password)

    def ask(self, query: str, *values: object) -> list[Any]:
        """The rows of a query of the owner."""
        return ask(self.dsn(), query, *values)


def _programs() -> Path:
    def version(path: Path) -> int:
        return int(re.sub(r"\D", "", path.parent.name) or 0)

    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=version)
    if not found:
        if os.environ.get("CI") == "true":
            pytest.fail(_NO_SERVER)
        pytest.skip(_NO_SERVER)
    return found[-1]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; a test that stops it starts it again."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="telemetryd-postgres-"))
    try:
        server = PostgresServer(folder, programs)
        try:
            server.start()
            ask(server.admin("postgres"), f"CREATE ROLE {OWNER} LOGIN PASSWORD '{OWNER_PASSWORD}'")
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


_NUMBERS = count()


@pytest.fixture
def database(postgres_server: PostgresServer, tmp_path: Path) -> Database:
    """An empty database."""
    if not postgres_server.running:
        postgres_server.start()
    name = f"test_{next(_NUMBERS)}"
    ask(postgres_server.admin("postgres"), f"CREATE DATABASE {name} OWNER {OWNER}")
    return Database(postgres_server, name, tmp_path)


@contextmanager
def pgbouncer(database: Database, *, connections: int = 1) -> Iterator[str]:
    """PgBouncer in front of a database, in transaction mode; the DSN through it."""
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    (port,) = free_ports(1)
    server = database.server
    with tempfile.TemporaryDirectory(prefix="telemetryd-pgbouncer-") as name:
        folder = Path(name)
        (folder / "users").write_text(f'"{OWNER}" "{OWNER_PASSWORD}"\n')
        config = folder / "pgbouncer.ini"
        config.write_text(
            f"[databases]\n{database.name} = host=127.0.0.1 port={server.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {folder}/users\npool_mode = transaction\n"
            f"default_pool_size = {connections}\nlogfile = {folder}/log\n"
        )
        folder.chmod(0o777)
        process = server.run([program, config])
        try:
            until(lambda: _listens(port), "PgBouncer", ended=process.poll)
            yield dsn_of(port, database.name)
        finally:
            process.terminate()
            process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
