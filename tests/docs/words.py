"""Fails on words that readers have to translate, in code, docs and names of tests.

`python -m tests.docs.words [FILE ...]` prints each with its line; `make check` looks at all files.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]

WORDS: Final = (
    r"affair of",
    r"anew",
    r"as ever",
    r"borne?",
    r"doesn't belong here",
    r"fares?",
    r"for ever",
    r"has been had",
    r"heeded",
    r"hindered",
    r"keeps? [^.]{0,40}\btrue",
    r"likewise",
    r"mend(?:s|ed|ing)?",
    r"nobody",
    r"none of (?:its|their|our) business",
    r"not had",
    r"of its own accord",
    r"out of reach",
    r"stands? in (?:its|the) way",
    r"the very same",
    r"told",
    r"whoever",
    r"(?:is|are) to be",
)
_WORD: Final = re.compile(rf"\b(?:{'|'.join(WORDS)})\b", re.IGNORECASE)
_NAME_OF_TEST: Final = re.compile(r"\s*(?:async )?def (test_\w+)")

PLACES: Final = ("telemetryd", "docs", "README.md", "CONTRIBUTING.md", "config.example.toml")
"""What is looked at, beside the names of all tests."""


def files() -> Iterator[Path]:
    """All that is looked at."""
    for place in (*PLACES, "tests"):
        path = ROOT / place
        found = path.rglob("*") if path.is_dir() else (path,)
        for file in sorted(found):
            if file.suffix in {".py", ".md", ".toml"}:
                yield file


def found_in(file: Path) -> Iterator[str]:
    """Where the words are in a file."""
    for number, line in enumerate(file.read_text().splitlines(), 1):
        name = _NAME_OF_TEST.match(line)
        text = name[1].replace("_", " ") if name else line
        if (name or "tests" not in file.parts) and (word := _WORD.search(text)):
            yield f"{file.relative_to(ROOT)}:{number}: {word[0]!r}: {line.strip()}"


def main(names: list[str]) -> int:
    """Print what is found; 1 where there is any."""
    chosen = [Path(name).resolve() for name in names] or files()
    found = [line for file in chosen if file != Path(__file__) for line in found_in(file)]
    sys.stdout.writelines(f"{line}\n" for line in found)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
