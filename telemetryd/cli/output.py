"""How commands print: data to stdout as bytes, complaints to stderr. Shared by all commands."""

import os
import sys

import orjson

from telemetryd import logs


def complain(line: str) -> None:
    """Say what went wrong; the journal takes the prefix as the line's priority."""
    prefix = "<3>" if logs.is_journal(sys.stderr, os.environ) else ""
    logs.say(f"{prefix}{line}")


def print_bytes(text: bytes) -> None:
    """Print and flush."""
    sys.stdout.buffer.write(text)
    sys.stdout.buffer.flush()


def print_text(text: str) -> None:
    """Print what may hold characters that the terminal can't show."""
    print_bytes(text.encode(errors="backslashreplace"))


def print_document(document: object) -> None:
    """Print JSON for people."""
    print_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n")
