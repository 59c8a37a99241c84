"""Rules of counting: the worked examples of the public ones, and rules of one's own."""

from collections.abc import Iterable
from fractions import Fraction

import pytest

from telemetryd.history.entitlement import PRESETS, Entitlement
from telemetryd.history.slots import HOUR_S, Cell, Gap, Slot

SERIES = "nodes.entitled"


def hour(index: int, count: int, series: str = SERIES) -> Slot:
    cell = Cell(count, count, count, count, float(count))
    return Slot(
        HOUR_S, index * HOUR_S, 3600.0, 3600.0, complete=True, cells={series: cell} if count else {}
    )


def hours(*runs: tuple[int, int]) -> Iterable[Slot]:
    """So many hours with so many nodes, one run after the other."""
    counts = [count for number, count in runs for _ in range(number)]
    return (hour(index, count) for index, count in enumerate(counts))


@pytest.mark.parametrize(("nodes", "licenses"), [(0, 0), (1, 1), (20, 1), (21, 2), (40, 2)])
def test_aws_csp_counts_twenties_of_the_last_count(nodes: int, licenses: int) -> None:
    rule = PRESETS["aws-csp"]
    figure = rule.figure(hours((3, 100), (1, nodes)))
    assert figure == nodes
    assert rule.licenses(figure) == licenses


def test_payg_leaves_out_hours_that_are_not_known() -> None:
    gone = [Slot(HOUR_S, (600 + index) * HOUR_S, gaps={Gap.DOWN: 3600.0}) for index in range(120)]
    rule = PRESETS["payg-monthly"]
    assert rule.figure([*hours((400, 10), (200, 16)), *gone]) == 12


def test_payg_counts_five_at_least() -> None:
    rule = PRESETS["payg-monthly"]
    figure = rule.figure(hours((720, 3)))
    assert figure == 5
    assert rule.licenses(figure) == 5


def test_payg_rounds_after_the_mean() -> None:
    rule = PRESETS["payg-monthly"]
    figure = rule.figure(hours((1, 10), (2, 11)))
    assert figure == Fraction(32, 3)
    assert rule.licenses(figure) == 11


def test_payg_takes_an_hour_by_its_beginning_and_a_peak_its_highest() -> None:
    peak = Slot(
        HOUR_S, HOUR_S, 3600.0, 3600.0, complete=True, cells={SERIES: Cell(40, 10, 10, 10, 25.0)}
    )
    counted = [hour(0, 10), peak, hour(2, 10)]
    assert PRESETS["payg-monthly"].figure(counted) == 10
    assert Entitlement().figure(counted) == 40


@pytest.mark.parametrize("method", ["peak", "current", "monthly_average"])
def test_nothing_known_has_no_figure(method: str) -> None:
    rule = Entitlement(method=method, minimum=5)
    assert rule.figure([]) is None
    assert rule.figure([Slot(HOUR_S, 0, gaps={Gap.OFF: 3600.0})]) is None


def test_incomplete_hour_counts_for_the_peak_alone() -> None:
    partial = Slot(HOUR_S, 0, known_s=60.0, cells={SERIES: Cell(7)})
    assert Entitlement().figure([partial]) == 7
    assert Entitlement(method="current").figure([partial]) is None
    assert Entitlement(method="monthly_average").figure([partial]) is None


@pytest.mark.parametrize(
    ("unit", "scope", "series"),
    [
        ("node", "managed", "nodes.entitled"),
        ("node", "all", "nodes.all"),
        ("core", "managed", "cpu.entitled"),
        ("cluster", "all", "clusters.all"),
    ],
)
def test_unit_and_scope_name_the_series(unit: str, scope: str, series: str) -> None:
    assert Entitlement(unit=unit, scope=scope).series == series


def test_cores_are_rounded_once_at_the_end() -> None:
    rule = Entitlement(unit="core", per_license=2)
    figure = rule.figure([hour(0, 3920, "cpu.entitled")])
    assert figure == Fraction(392, 100)
    assert rule.licenses(figure) == 2
