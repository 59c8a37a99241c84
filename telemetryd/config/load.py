"""Finds the configuration file, reads it, and makes of it a ``Config`` or all its problems."""

import os
import re
import stat
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from telemetryd.config.lines import Path as FilePath
from telemetryd.config.lines import find_lines, line_of
from telemetryd.config.overrides import CONFIG_VARIABLE, EXPORTERS, Assignment, find_overrides
from telemetryd.config.paths import default_control_socket, default_state_dir
from telemetryd.config.reading import Reading
from telemetryd.config.restrictions import (
    Statement,
    file_statements,
    find_problem,
    override_statements,
)
from telemetryd.config.settings import Config
from telemetryd.errors import ConfigError, Problem

SYSTEM_CONFIG = Path("/etc/telemetryd/config.toml")

DEFAULTS = "defaults"
"""What stands for the file where there is none."""

_LARGEST_FILE_BYTES = 1024 * 1024
_QUOTED = re.compile(r"""\(['"].*['"],?\)|'.{7,}'|".{7,}\"""")
"""Text of the file in a message of tomllib. A single character may stay."""
_NO_STATEMENT = re.compile(r"[ \t\r]*(\[[^\[\]]*\][ \t\r]*)?(#.*)?")
"""A line that is empty, a comment, or the head of a table."""


def find_config(
    path_option: str | None, environ: Mapping[str, str], *, system_path: Path = SYSTEM_CONFIG
) -> Path | None:
    """The file to read: the option, else ``$TELEMETRYD_CONFIG``, else the system's where it exists.

    An option or variable is taken at its word: that the file exists is checked by reading it. An
    empty variable counts as unset.

    Returns:
        The path, None for the defaults.

    Raises:
        ConfigError: The option is empty.
    """
    if path_option is not None:
        if not path_option:
            raise ConfigError(Problem("--config", "", "is empty: must be the path of a TOML file"))
        return Path(path_option)
    if from_environment := environ.get(CONFIG_VARIABLE):
        return Path(from_environment)
    try:
        system_path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return system_path  # there is something: reading it says why it can't be read
    return system_path


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """What was read, before anything is made of it.

    Attributes:
        where: Name of the file for messages, ``defaults`` where there is none.
        text: Its content.
    """

    where: str
    text: str

    @property
    def digest(self) -> str:
        """SHA-256 of the content, in hex."""
        return sha256(self.text.encode()).hexdigest()

    def locate(self, problem: Problem) -> Problem:
        """A problem of this file, or of an exporter that it names, with its key and line."""
        place, _, name = problem.where.partition(" ")
        if place == "exporter" and name:
            key = ".".join(filter(None, (EXPORTERS, name, problem.key)))
            problem = Problem(self.where, key, problem.message)
        if problem.line or problem.where != self.where or not problem.key:
            return problem
        path: FilePath = tuple(problem.key.split("."))
        if path[0] == EXPORTERS:
            tables = _decode(self.text, self.where).get(EXPORTERS, [])
            names = [each["name"] for each in tables] if isinstance(tables, list) else []
            index = names.index(path[1]) if path[1] in names else len(names)
            path = (path[0], index, *path[2:])
        return replace(problem, line=line_of(path, find_lines(self.text)))


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a valid file says, with what is set above it."""

    file: ConfigFile
    config: Config
    conflicts: tuple[str, ...]
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where the configuration comes from, at the start and at each reload alike.

    What the last file means is kept: a start and a reload ask for it several times, and all parts
    of the daemon then share one copy of a thousand exporters.

    Attributes:
        path_option: As of ``find_config``, which looks again at each reading.
        environ: For the file's name and for what overrides its keys.
        system_path: The file that is read where it exists and none is named.
        assignments: Keys that the command line sets.
    """

    path_option: str | None
    environ: Mapping[str, str]
    system_path: Path = SYSTEM_CONFIG
    assignments: tuple[Assignment, ...] = ()
    _last: list[_Meaning] = field(default_factory=list, init=False, repr=False, compare=False)

    def find(self) -> Path | None:
        """The file to read, None for the defaults.

        Raises:
            ConfigError: As of ``find_config``.
        """
        return find_config(self.path_option, self.environ, system_path=self.system_path)

    @property
    def unnamed(self) -> bool:
        """Neither an option nor a variable names the file."""
        return self.path_option is None and not self.environ.get(CONFIG_VARIABLE)

    def read(self) -> ConfigFile:
        """Find the file and read it.

        Raises:
            ConfigError: It can't be read.
        """
        path = self.find()
        return ConfigFile(DEFAULTS, "") if path is None else ConfigFile(str(path), _read(path))

    def parse(self, file: ConfigFile) -> Config:
        """Validate what was read.

        Raises:
            ConfigError: With every problem found.
        """
        return _with_folders(self._understand(file).config, self.environ)

    def parse_as_written(self, file: ConfigFile) -> Config:
        """The same without a look at the disk: folders that are left open stay so.

        Raises:
            ConfigError: With every problem found.
        """
        return self._understand(file).config

    def examine(self, file: ConfigFile) -> tuple[Config, Reading]:
        """The same, with what shows where each value is from.

        Raises:
            ConfigError: With every problem found.
        """
        return _validate(file.text, file.where, self.environ, self.assignments)

    def conflicts(self, file: ConfigFile) -> tuple[str, ...]:
        """Variables and options that have no effect with a valid file, and why, a line each."""
        return self._understand(file).conflicts

    def statements(self, file: ConfigFile) -> tuple[Statement, ...]:
        """What a valid file, variables and options say about keys that restrict."""
        return self._understand(file).statements

    def _understand(self, file: ConfigFile) -> _Meaning:
        known = next(iter(self._last), None)
        if known is None or known.file != file:
            config, reading = self.examine(file)
            written = file_statements(_decode(file.text, file.where), file.where)
            statements = (*written, *override_statements(reading.given, config))
            known = _Meaning(file, config, tuple(reading.conflicts), statements)
            self._last[:] = [known]
        return known


def load_config(
    path: Path | None, environ: Mapping[str, str], assignments: Sequence[Assignment] = ()
) -> Config:
    """Read and validate a file, or make the defaults of none; what is set above it overrides both.

    Raises:
        ConfigError: With every problem found.
    """
    text = "" if path is None else _read(path)
    return parse_config(text, "" if path is None else str(path), environ, assignments)


def parse_config(
    text: str, where: str, environ: Mapping[str, str], assignments: Sequence[Assignment] = ()
) -> Config:
    """Validate the content of a file; of folders that it leaves open the usable ones are chosen.

    Args:
        text: TOML; empty for the defaults.
        where: Name of the file in messages.
        environ: Each ``TELEMETRYD_`` variable overrides its key, and ``TELEMETRYD_ENABLED`` must
            make sense, which ``restrictions`` reads; ``STATE_DIRECTORY``, ``RUNTIME_DIRECTORY``,
            ``XDG_STATE_HOME`` and ``HOME`` name folders.
        assignments: Of the command line; they override the environment.

    Raises:
        ConfigError: With every problem found, in the order of the file.
    """
    return _with_folders(_validate(text, where, environ, assignments)[0], environ)


def _with_folders(config: Config, environ: Mapping[str, str]) -> Config:
    """The configuration with usable folders for those that it leaves open."""
    state_dir = config.state_dir or default_state_dir(environ)
    control = config.server.control_socket or default_control_socket(environ, state_dir)
    return replace(
        config, state_dir=state_dir, server=replace(config.server, control_socket=control)
    )


def _validate(
    text: str, where: str, environ: Mapping[str, str], assignments: Sequence[Assignment]
) -> tuple[Config, Reading]:
    overrides, problems = find_overrides(environ, assignments)
    reading = Reading(where, text, overrides, list(problems))
    if (problem := find_problem(environ)) is not None:
        reading.problems.append(problem)
    config = reading.read(Config, _decode(text, where))
    if config is None:
        raise ConfigError(*reading.problems)
    return config, reading


def _read(path: Path) -> str:
    where = str(path)
    try:
        with os.fdopen(_open_regular(path), "rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            Problem(where, "", "doesn't exist: create it, or name another with --config")
        ) from error
    except PermissionError as error:
        raise ConfigError(
            Problem(where, "", f"can't be read by user {os.geteuid()}: let that user read it")
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(Problem(where, "", f"can't be read: {reason}")) from error
    if len(content) > _LARGEST_FILE_BYTES:
        raise ConfigError(Problem(where, "", "is larger than 1 MiB: name a TOML file"))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            Problem(where, "", f"isn't UTF-8 (at line {line}): save it as UTF-8")
        ) from error
    if _is_blank(text):
        raise ConfigError(
            Problem(where, "", "holds no statement: write it again, or remove it for the defaults")
        )
    return text


def _is_blank(text: str) -> bool:
    """Whether no key is set: what an interrupted copy or a full disk leaves behind."""
    return all(_NO_STATEMENT.fullmatch(line) for line in text.split("\n"))


def _open_regular(path: Path) -> int:
    """Open without waiting for the writer of a pipe, and refuse what may have no end.

    Raises:
        ConfigError: It isn't a file on a disk.
    """
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return opened
    os.close(opened)
    what = "is a directory" if stat.S_ISDIR(mode) else "isn't a regular file"
    raise ConfigError(Problem(str(path), "", f"{what}: name a TOML file"))


def _decode(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last_line = text.count("\n") + 1
        message = str(error).replace("at end of document", f"at line {last_line}, the end")
        message = _QUOTED.sub("…", message)
        raise ConfigError(Problem(where, "", f"isn't valid TOML: {message}")) from error
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, arrays nested thousands deep: tomllib leaks both
        kind = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(Problem(where, "", f"isn't valid TOML: {kind}")) from error
