"""The rules with every duration divided, so that what takes a quarter of an hour takes seconds.

What is divided: `for`, the ranges in brackets, and offsets. Everything else stays: names, labels,
thresholds, and rates, which are per second whatever the range. So the expressions that are tested
are those that are shipped.
"""

import re

_UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(
    r"(?<=for: )\d+(?:ms|[smh])|(?<=\[)\d+(?:ms|[smh])(?=\])|(?<=offset )\d+(?:ms|[smh])"
)


def scaled(rules: str, by: int) -> str:
    """The text of a rule file with durations divided, in whole milliseconds where it divides."""

    def divide(found: re.Match[str]) -> str:
        count, unit = re.findall(r"\d+|[a-z]+", found[0])
        return f"{int(count) * _UNITS_MS[unit] // by}ms" if by != 1 else found[0]

    return _DURATION.sub(divide, rules)
