"""The table of what imports cost has a row for each part, and each part can be imported."""

import re

from benchmarks import imports


def test_each_part_is_measured_once() -> None:
    lines = imports.render(rounds=1).splitlines()
    rows = [re.fullmatch(r"\| (.+) \| \d+ \| -?\d+\.\d \| \d+ \|", line) for line in lines]
    names = [row[1] for row in rows if row]
    assert names == [*imports._ALWAYS, *imports._ON_DEMAND]
    assert len(lines) == len(names) + 6  # two heads of two lines, each after an empty one
