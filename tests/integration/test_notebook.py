"""The notebook of a cell's fade, executed from first to last, and the figures it prints."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import matplotlib.image
import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.calce import calce_dir
from tests.services.kafka import Broker

NOTEBOOK = Path(__file__).parents[2] / "deploy" / "notebook" / "battery_fade.ipynb"


@pytest.fixture(autouse=True)
def surroundings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's files, and what the notebook writes, go to the test's folder."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.delenv("BATTERY_SOURCE", raising=False)
    monkeypatch.delenv("KAFKA_BOOTSTRAP_SERVERS", raising=False)


def execute(target: Path) -> tuple[str, bytes]:
    """Executes all cells; what they printed, and the plot as PNG. The executed copy is kept."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook, timeout=1200, kernel_name="python3",
        resources={"metadata": {"path": str(NOTEBOOK.parent)}},
    )  # fmt: skip
    client.execute()
    nbformat.write(notebook, target / "executed.ipynb")
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    plots = [
        output.data["image/png"] for output in outputs if "image/png" in output.get("data", ())
    ]
    assert len(plots) == 1
    plot = base64.b64decode(plots[0])
    (target / "fade.png").write_bytes(plot)
    return printed, plot


def number(pattern: str, printed: str) -> float:
    """The number in brackets of the one place that the pattern matches."""
    found = re.findall(pattern, printed)
    assert len(found) == 1, printed
    return float(found[0].replace(",", ""))


def looks_like_a_plot(plot: bytes) -> None:
    """Asserts that the picture has the line of the median, falling from left to right."""
    picture = matplotlib.image.imread(io.BytesIO(plot), format="png")[:, :, :3]
    line = abs(picture - [0x1F / 255, 0x4E / 255, 0x79 / 255]).max(axis=2) < 0.02
    height, width = line.shape
    assert width > 600
    assert height > 300
    line[int(height * 0.7) :] = False  # the legend has it too
    columns = line.any(axis=0).nonzero()[0]
    assert columns[-1] - columns[0] > width / 2
    heights = [line[:, column].nonzero()[0].mean() for column in columns]
    assert heights[-1] > heights[0] + height / 40


def test_what_is_committed_was_not_executed() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert cells
    assert not any(cell.outputs or cell.execution_count for cell in cells)


def test_without_a_broker_it_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(CellExecutionError, match=r"docker compose -f deploy/compose\.yaml up"):
        execute(tmp_path)


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.timeout(1500)
def test_a_simulated_cell(kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    source = "simulator:?equipment=1&machines=0&cycles=250&interval=600"
    monkeypatch.setenv("BATTERY_SOURCE", source)
    printed, plot = execute(tmp_path)
    published = number(r"published ([\d,]+) to", printed)
    account = rf"read {published:,.0f} = written {published:,.0f} \+ duplicates 0 \+ dead letters 0"
    assert re.search(account, printed), printed
    assert number(r": ([\d,]+) readings, 250 cycles", printed) == published
    watched = re.findall(r"\d s: ([\d,]+) readings in the warehouse", printed)
    assert watched
    assert int(watched[-1].replace(",", "")) <= published
    first = number(r"state of health ([\d.]+)% at first", printed)
    last = number(r"at first, ([\d.]+)% at last", printed)
    assert 95 < first < 105
    assert last < first - 3
    looks_like_a_plot(plot)


@pytest.mark.integration
@pytest.mark.long
@pytest.mark.calce
@pytest.mark.timeout(1500)
def test_calce_s_cell(kafka: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALCE_DIR", str(calce_dir()))
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap)
    printed, plot = execute(tmp_path)
    assert "cell CS2_35: 260,931 readings, 886 cycles" in printed
    assert "read 266,914 = written 260,931 + duplicates 5,983 + dead letters 0" in printed
    assert "end of life (80 %): cycle 596" in printed
    looks_like_a_plot(plot)
