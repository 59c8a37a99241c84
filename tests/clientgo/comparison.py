"""What telemetryd does with one case, compared with client-go; the tests beside it share it."""

from pathlib import Path

from tests.clientgo import differences, recorded
from tests.clientgo.programs import Telemetryd, is_dialled_by_kubectl, run_clientgo, run_kubectl
from tests.clientgo.table import Case


def compare(case: Case, certificates: Path, telemetryd: Telemetryd) -> None:
    """Fail for a difference that isn't documented, and for a documented one that is gone."""
    theirs = recorded.facts()[case.name]
    ours = telemetryd.run(case, certificates)
    if case.name in differences.names():
        assert ours.facts(dialled=True) != theirs, "documented, but equal"
    else:
        assert ours.facts(dialled=True) == theirs, (
            f"telemetryd said {ours.said!r}; `python -m tests.clientgo {case.name!r}` shows both"
        )


def compare_recorded(case: Case, oracles: tuple[Path, Path], certificates: Path) -> None:
    """Fail where client-go does something else than is recorded, or kubectl than client-go."""
    theirs = run_clientgo(oracles[0], case, certificates)
    assert theirs.facts(dialled=True) == recorded.facts()[case.name], (
        f"client-go said {theirs.said!r}; `python -m tests.clientgo --record` records it"
    )
    if is_dialled_by_kubectl(theirs):
        kubectl = run_kubectl(oracles[1], case, certificates)
        is_same = kubectl.facts(dialled=False) == theirs.facts(dialled=False)
        # Where the kubeconfig has no credential, kubectl asks for one on the terminal.
        asks = kubectl.said.strip() == "error: EOF" and not theirs.has_credential()
        assert is_same or asks, f"{theirs}\n{kubectl}"
