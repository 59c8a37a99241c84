"""Finds the configuration file, reads it, and makes of it a ``Config`` or all its problems."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from telemetryd.config.schema import Reading
from telemetryd.config.settings import Config
from telemetryd.errors import ConfigError, Problem

SYSTEM_CONFIG = Path("/etc/telemetryd/config.toml")

_CONFIG_VARIABLE = "TELEMETRYD_CONFIG"
_LARGEST_FILE_BYTES = 1024 * 1024


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
    if from_environment := environ.get(_CONFIG_VARIABLE):
        return Path(from_environment)
    try:
        system_path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        return system_path  # there is something: let reading it say what stands in the way
    return system_path


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Read and validate a file, or make the defaults of none; the environment overrides both.

    Raises:
        ConfigError: With every problem found.
    """
    text = "" if path is None else _read(path)
    return parse_config(text, "" if path is None else str(path), environ)


def parse_config(text: str, where: str, environ: Mapping[str, str]) -> Config:
    """Validate the content of a file.

    Args:
        text: TOML; empty for the defaults.
        where: Name of the file in messages.
        environ: ``TELEMETRYD_LOG_LEVEL`` and ``TELEMETRYD_LISTEN`` override their keys.

    Raises:
        ConfigError: With every problem found, in the order of the file.
    """
    reading = Reading(where, environ)
    config = reading.read(Config, _decode(text, where))
    if config is None:
        raise ConfigError(*reading.problems)
    return config


def _read(path: Path) -> str:
    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(
            Problem(where, "", "doesn't exist: create it, or name another with --config")
        ) from error
    except IsADirectoryError as error:
        raise ConfigError(Problem(where, "", "is a directory: name a TOML file")) from error
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
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            Problem(where, "", f"isn't UTF-8 (at line {line}): save it as UTF-8")
        ) from error


def _decode(text: str, where: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        last_line = text.count("\n") + 1
        message = str(error).replace("at end of document", f"at line {last_line}, the end")
        raise ConfigError(Problem(where, "", f"isn't valid TOML: {message}")) from error
    except (ValueError, RecursionError) as error:
        # a number of thousands of digits, arrays nested thousands deep: tomllib leaks both
        kind = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(Problem(where, "", f"isn't valid TOML: {kind}")) from error
