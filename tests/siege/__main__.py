"""`make siege`: prints what was seen, and exits 1 where a promise is broken."""

import argparse
import sys
import time
from pathlib import Path

from tests.apiserver.versions import find_assets
from tests.siege.attacks import KINDS
from tests.siege.peers import compare
from tests.siege.run import Plan, besiege
from tests.siege.verdict import MOST_RATIO, render

_SWITCH_S = 2e-4
"""A tenant's thread must not hold up those that measure for the 5 ms that it may by default."""


def _tell(line: str) -> None:
    sys.stdout.write(f"{time.monotonic() - _BEGIN_S:5.0f} s  {line}\n")
    sys.stdout.flush()


def _kinds(text: str) -> tuple[str, int]:
    kind, _, number = text.partition("=")
    if kind not in KINDS or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"{text}: KIND=COUNT, of {', '.join(KINDS)}")
    return kind, int(number)


def main(arguments: list[str]) -> int:
    """Runs it."""
    plan = Plan()
    parser = argparse.ArgumentParser(prog="tests.siege", description=__doc__)
    parser.add_argument("--quiet", type=float, default=plan.quiet_s, metavar="SECONDS")
    parser.add_argument("--siege", type=float, default=plan.siege_s, metavar="SECONDS")
    parser.add_argument("--requests", type=int, default=plan.requests, metavar="COUNT")
    parser.add_argument("--large", type=int, default=plan.large, metavar="COUNT")
    parser.add_argument(
        "--attempts",
        type=int,
        default=1,
        metavar="COUNT",
        help="until one run keeps every promise; as other programs may have had the cores, the "
        "second may take twice the time for an answer",
    )
    parser.add_argument("--peers", action="store_true", help="each attack on each peer instead")
    parser.add_argument("--only", type=_kinds, nargs="+", metavar="KIND=COUNT", default=[])
    given = parser.parse_args(arguments)
    sys.setswitchinterval(_SWITCH_S)
    if given.peers:
        sys.stdout.write(f"\n{compare(given.quiet, given.siege, _tell)}\n")
        return 0
    assets = find_assets()
    if assets is None:
        _tell("no kube-apiserver here: `make apiserver` builds one")
        return 1
    plan = Plan(
        given.quiet,
        given.siege,
        given.requests,
        min(given.large, given.requests),
        kinds=dict(given.only) or None,
    )
    ratios = (MOST_RATIO * number for number in range(1, given.attempts + 1))
    return 0 if any(_keeps_all(assets, plan, most_ratio) for most_ratio in ratios) else 1


def _keeps_all(assets: Path, plan: Plan, most_ratio: float) -> bool:
    siege = besiege(assets, plan, _tell)
    sys.stdout.write(f"\n{render(siege)}\n\n")
    broken = list(siege.broken(most_ratio))
    for each in broken:
        sys.stdout.write(f"BROKEN: {each}\n")
    sys.stdout.write("every promise is kept\n" if not broken else "")
    return not broken


_BEGIN_S = time.monotonic()
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
