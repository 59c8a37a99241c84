"""Reads what Google-style docstrings say of a class and of its attributes."""

import inspect
import re

_ENTRY = re.compile(r" {4}(\w+): (.+)")


def lead_of(documented: type) -> str:
    """The first paragraph, on one line, in Markdown."""
    return in_markdown(_text_of(documented).partition("\n\n")[0])


def attributes_of(documented: type) -> dict[str, str]:
    """What is said of each attribute, by its name; a class goes before its bases."""
    said: dict[str, str] = {}
    for each in reversed(documented.__mro__):
        said |= _attributes_of(each)
    return said


def in_markdown(text: str) -> str:
    """A docstring's text on one line, with Markdown's marks of code."""
    return " ".join(text.replace("``", "`").split())


def _text_of(documented: type) -> str:
    """The docstring, which another distribution's class may lack: a dataclass then makes one up."""
    text = documented.__doc__ or ""
    return "" if text.startswith(f"{documented.__name__}(") else inspect.cleandoc(text)


def _attributes_of(documented: type) -> dict[str, str]:
    section = _text_of(documented).partition("\nAttributes:\n")[2]
    said: dict[str, str] = {}
    name = ""
    for line in section.partition("\n\n")[0].splitlines():
        if entry := _ENTRY.fullmatch(line):
            name, said[entry[1]] = entry[1], entry[2]
        elif name:
            said[name] += f" {line.strip()}"
    return {name: in_markdown(text) for name, text in said.items()}
