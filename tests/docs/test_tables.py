"""Tables that list what is closed in the code: nothing is missing, nothing is made up."""

import inspect
import json
import re
from pathlib import Path

import jsonschema
import pytest

from telemetryd import api
from telemetryd.cli import run_command
from telemetryd.config.values import DURATION_PATTERN
from telemetryd.daemon.signals import EarlySignals
from telemetryd.errors import Reason
from telemetryd.model import ExporterState
from telemetryd.serve.metrics.families import FAMILIES
from telemetryd.serve.page.disclosure import NEVER_READ
from tests.cli.test_commands import telemetryd
from tests.docs.markdown import ROOT, blocks
from tests.serve.page.test_disclosure import leaves
from tests.support.daemon import free_port
from tests.support.embedded import serve_fleet

_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of every row of the tables under a heading, but for those that name columns."""
    text = (ROOT / "docs" / page).read_text()
    _, found, rest = text.partition(f"# {heading}\n")
    assert found, f"{page} has no heading {heading!r}"
    section = _HEADING.split(rest)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    rulers = [index for index, line in enumerate(lines) if line.startswith("|---")]
    headings = {index - 1 for index in rulers} | set(rulers)
    return [row for index, row in enumerate(cells) if index not in headings]


def named(row: list[str], column: int = 0) -> str:
    return row[column].strip("`")


def test_every_state_is_explained() -> None:
    assert [named(row) for row in rows("troubleshooting.md", "States")] == list(ExporterState)


def test_every_reason_is_explained() -> None:
    found = [named(row) for row in rows("troubleshooting.md", "Reasons") if len(row) == 3]
    assert [name for name in found if name in set(Reason)] == list(Reason)


def test_every_reason_is_listed_for_authors_of_exporters() -> None:
    page = (ROOT / "docs" / "writing-an-exporter.md").read_text()
    (listed,) = re.findall(r"`reason` is one of `Reason`, .*?: (.*?)\. The\s", page, re.DOTALL)
    assert [word.strip("`") for word in re.split(r",\s+", listed)] == list(Reason)


def test_every_kind_of_key_is_listed_with_its_arguments() -> None:
    listed = {named(row) for row in rows("writing-an-exporter.md", "The plug-in")}
    kinds = [
        kind
        for name in api.__all__
        if isinstance(kind := getattr(api, name), type) and issubclass(kind, api.Kind)
    ]
    expected = set()
    for kind in kinds:
        if kind is not api.Kind:
            parameters = inspect.signature(kind).parameters.values()
            arguments = ", ".join(
                each.name if each.default is each.empty else f"{each.name}={each.default!r}"
                for each in parameters
            )
            expected.add(f"{kind.__name__}({arguments})")
    assert listed == expected


def test_every_other_closed_list_is_explained() -> None:
    explained: dict[tuple[str, str], list[str]] = {}
    label = metric = ""
    for row in rows("troubleshooting.md", "Reasons"):
        if of := re.fullmatch(r"`(\w+)` of `(\w+)`", row[0]):
            label, metric = of.groups()
        if metric and (of or not row[0].strip("| ")):
            explained.setdefault((metric, label), []).append(named(row, 1))
    closed = {
        (family.exposed_name, each.name): [*each.values]
        for family in FAMILIES
        for each in family.labels
    }
    assert explained
    for which, values in explained.items():
        assert values == closed[which]
    reasons = {
        which
        for which, values in closed.items()
        if which[1] == "reason" and values and not {*values} >= {*Reason}
    }
    assert reasons - set(explained) == set()


@pytest.mark.parametrize(
    ("name", "heading"), [("scc", "The SCC payload"), ("fleet", "The fleet payload")]
)
def test_every_field_of_a_payload_is_listed_and_no_other(
    name: str, heading: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["schema", "--format", name], EarlySignals()) == 0
    listed = [named(row) for row in rows("collected.md", heading)]
    assert sorted(listed) == sorted(leaves(json.loads(capsys.readouterr().out)))


def test_payload_that_the_readme_shows_is_a_valid_one(capsys: pytest.CaptureFixture[str]) -> None:
    (shown,) = [
        json.loads("\n".join(block.lines))
        for block in blocks((ROOT / "README.md").read_text())
        if block.language == "json"
    ]
    assert run_command(["schema", "--format", "scc"], EarlySignals()) == 0
    jsonschema.validate(shown, json.loads(capsys.readouterr().out))
    nodes = sum(row["count"] * row["nodes"] for row in shown["managedClusters"])
    assert nodes == sum(row["count"] for row in shown["managedSystems"]) == 15


def benchmarked() -> str:
    """What the benchmark's page says of an idle machine."""
    text = (ROOT / "benchmarks" / "README.md").read_text()
    idle, found, _ = text.partition("\n## Beside a busy loop\n")
    assert found
    return idle


@pytest.mark.parametrize("page", ["README.md", "docs/operations.md"])
def test_figures_are_those_of_the_benchmark(page: str) -> None:
    measured = benchmarked()
    (peak,) = re.findall(
        r"^\| 10,000 real nodes: peak memory.* \| (\d+) MB to", measured, re.MULTILINE
    )
    (idle,) = re.findall(
        r"^\| 10,000 nodes: idle .* \| ([\d.]+) % of a core \|", measured, re.MULTILINE
    )
    (first,) = re.findall(r" \| ([\d.]+) s from the start of the process \|", measured)
    text = (ROOT / page).read_text()
    for figure in (f"{peak} MB", f"{float(idle):.1f} % of a", f"{float(first):.0f} s"):
        assert figure in text, figure


def test_figures_of_nodes_and_exporters_are_those_of_the_benchmark() -> None:
    measured = benchmarked()
    (node,) = re.findall(
        r"^\| memory of a further real node .* \| (\d+) bytes resident \|", measured, re.MULTILINE
    )
    takes = dict(
        re.findall(
            r"^\| 1,000 exporters of type (\w+): memory .* \| ([\d.]+) MB \|",
            measured,
            re.MULTILINE,
        )
    )
    text = " ".join((ROOT / "docs" / "operations.md").read_text().split())
    assert f"A further node takes about {round(int(node), -1)} bytes." in text
    least, most = sorted(round(float(each)) for each in takes.values())
    assert f"A thousand exporters take {least} to {most} MB more." in text


def test_form_of_a_duration_that_helm_shows_is_that_of_the_file() -> None:
    assert f"'^{DURATION_PATTERN}$'" in (ROOT / "docs" / "helm.md").read_text()


def test_what_is_never_read_is_what_the_status_page_says() -> None:
    text = (ROOT / "docs" / "collected.md").read_text()
    section = _HEADING.split(text.partition("## Never read\n")[2])[0]
    listed = [line.removeprefix("- ") for line in section.splitlines() if line.startswith("- ")]
    assert listed == [f"{line}." for line in NEVER_READ]


def test_every_check_of_doctor_is_explained(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with serve_fleet(tmp_path) as fleet:
        config.write_text(
            f'state_dir = "{tmp_path}"\n[kubernetes]\nkubeconfig = "{fleet.kubeconfig}"\n'
            f'[server]\nlisten = "127.0.0.1:{free_port()}"\n'
            '[[exporters]]\nname = "scc"\ntype = "secret"\n'
            f'[[exporters]]\nname = "kept"\ntype = "file"\ndirectory = "{tmp_path}/kept"\n'
            f'[[exporters]]\nname = "web"\ntype = "http"\nurl = "https://localhost:{free_port()}"\n'
            'bearer_token_file = "/nonexistent"\n'
        )
        asked = telemetryd("doctor", "--config", str(config), RUNTIME_DIRECTORY=str(tmp_path))
    assert asked.returncode == 1, asked.stdout
    lines = asked.stdout.splitlines()
    patterns = {
        re.sub("[A-Z]{4,}", ".+", re.escape(name))
        for row in rows("troubleshooting.md", "What doctor asks")
        if (name := named(row))
    }
    checks = {line.split("  ")[1] for line in lines[:-1]}
    assert len(checks) > 30
    for check in checks:
        assert any(re.fullmatch(pattern, check) for pattern in patterns), check


def test_ids_are_called_pseudonymous_wherever_they_are_named() -> None:
    helps = [
        telemetryd(*command, "--help").stdout for command in ([], ["payload"], ["schema"], ["run"])
    ]
    assert all(helps)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    for text in (*helps, *(page.read_text() for page in pages)):
        # The value in the configuration, and a user of Kubernetes.
        rest = text.replace('"anonymous"', "").replace("system:anonymous", "")
        assert "anonym" not in rest.lower(), re.findall(".*anonym.*", rest, re.IGNORECASE)
    fleet = (ROOT / "docs" / "delivery.md").read_text()
    assert "anyone who knows the UID of a cluster's object can compute its id" in fleet
    assert "anyone who has the payload can compute the id" in fleet
