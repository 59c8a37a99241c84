"""Shows what the three programs do: `python -m tests.clientgo PART-OF-A-NAME …`; all without one.

With names it shows every case that has one of them in its name, else those that differ. With
`--record` in place of names it records what client-go does with every case.
"""

import sys
import tempfile
from pathlib import Path

from tests.clientgo import binaries, certificates, recorded
from tests.clientgo.cases import CASES
from tests.clientgo.programs import (
    Outcome,
    Telemetryd,
    is_dialled_by_kubectl,
    run_clientgo,
    run_kubectl,
)


def main(parts: list[str]) -> None:
    """Run the cases and print what they did."""
    telemetryd = Telemetryd()
    equal = shown = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates.write_all(folder)
        chosen = [c for c in CASES if not parts or any(part in c.name for part in parts)]
        for case in chosen:
            theirs = run_clientgo(binaries.clientgo(), case, folder)
            ours = telemetryd.run(case, folder)
            is_equal = theirs.facts(dialled=True) == ours.facts(dialled=True)
            equal += is_equal
            lines = [_line("client-go", theirs), _line("telemetryd", ours)]
            if is_dialled_by_kubectl(theirs):
                by_kubectl = run_kubectl(binaries.kubectl(), case, folder)
                if by_kubectl.facts(dialled=False) != theirs.facts(dialled=False):
                    lines.append(_line("kubectl, which differs", by_kubectl))
            if parts or not is_equal or len(lines) > 2:
                shown += 1
                sys.stdout.write(f"{'same' if is_equal else 'DIFFERS'}: {case.name}\n")
                sys.stdout.writelines(lines)
                sys.stdout.flush()
    telemetryd.close()
    sys.stdout.write(f"cases={len(chosen)} equal={equal} shown={shown}\n")


def record() -> None:
    """Run client-go on every case and keep what it did."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        certificates.write_all(folder)
        recorded.write(
            {
                case.name: run_clientgo(binaries.clientgo(), case, folder).facts(dialled=True)
                for case in CASES
            }
        )


def _line(program: str, outcome: Outcome) -> str:
    dialled = "" if outcome.dialled is None else f" dialled={list(outcome.dialled)}"
    if outcome.connects:
        return f"  {program}: connects{dialled} {list(outcome.path)}\n"
    said = outcome.said.replace("\n", " | ")[:300]
    return f"  {program}: does not connect{dialled} {list(outcome.tried)}: {said}\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        record()
    else:
        main(sys.argv[1:])
