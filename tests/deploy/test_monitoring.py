"""Alerts and dashboard: they name metrics that there are, and every alert has its paragraph."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest

from tests.deploy import tools

ROOT = Path(__file__).parents[2]
TERRAFORM = ROOT / "deploy" / "terraform"
MONITORING = (TERRAFORM / "monitoring.tf").read_text()
DASHBOARD = (TERRAFORM / "dashboard.json").read_text()
RUNBOOK = (ROOT / "deploy" / "RUNBOOK.md").read_text()

# Google's list of metrics (cloud.google.com/monitoring/api/metrics_gcp), as far as they are used.
GOOGLES = {
    "dataflow.googleapis.com/job/current_num_vcpus",
    "dataflow.googleapis.com/job/data_watermark_age",
    "dataflow.googleapis.com/job/is_failed",
    "dataflow.googleapis.com/job/system_lag",
    "dataflow.googleapis.com/job/total_streaming_data_processed",
    "dataflow.googleapis.com/job/user_counter",
    "bigquerystorage.googleapis.com/write/uploaded_bytes_count",
    "pubsub.googleapis.com/subscription/dead_letter_message_count",
    "pubsub.googleapis.com/subscription/num_undelivered_messages",
    "pubsub.googleapis.com/subscription/oldest_unacked_message_age",
}
# What Dataflow makes of a distribution.
PARTS = ("_COUNT", "_MAX", "_MEAN", "_MIN")


def counted() -> set[str]:
    """The names under which the job's counters and distributions are in Cloud Monitoring."""
    names = set()
    for package in ("pipeline", "transforms"):
        for path in (ROOT / package).rglob("*.py"):
            for kind, name in re.findall(
                r'Metrics\.(counter|distribution)\(\s*[\w."]+,\s*"(\w+)"', path.read_text()
            ):
                names |= {name} if kind == "counter" else {name + part for part in PARTS}
    return names


def queries() -> list[str]:
    """Every query of the dashboard, its fields filled in."""
    text = re.sub(r"\$\{(\w+)\}", r"a-\1", DASHBOARD)
    return re.findall(r'"prometheusQuery": "((?:[^"\\]|\\.)*)"', text)


@pytest.mark.parametrize("text", [DASHBOARD, MONITORING], ids=["dashboard", "alerts"])
def test_every_metric_is_the_jobs_or_googles(text: str) -> None:
    used = {
        f"{service.replace('_', '.')}/{kind}/{name}"
        for service, kind, name in re.findall(r"(\w+_googleapis_com):([a-z]+)_(\w+)", text)
    }
    assert used
    assert used <= GOOGLES
    plain = text.replace("\\", "")
    found = re.findall(r'(?:metric_name=|local\.counter\})~?"([\w|]+)"', plain)
    own = {name for names in found for name in names.split("|")}
    assert own >= {"read", "dead_letters", "latency_ms_MEAN"}
    assert own <= counted()


def test_the_dashboard_shows_what_operators_ask_for() -> None:
    for metric in ("oldest_unacked_message_age", "num_undelivered_messages", "data_watermark_age",
                   "dead_letters", "latency_ms_MEAN", "written", "duplicates"):  # fmt: skip
        assert metric in DASHBOARD


def test_no_two_tiles_of_the_dashboard_overlap() -> None:
    layout = json.loads(DASHBOARD)["mosaicLayout"]
    areas = [
        (tile.get("xPos", 0), tile.get("yPos", 0), tile["width"], tile["height"])
        for tile in layout["tiles"]
    ]
    assert all(left + width <= layout["columns"] for left, _, width, _ in areas)
    for one, other in combinations(areas, 2):
        apart = (one[0] + one[2] <= other[0] or other[0] + other[2] <= one[0]
                 or one[1] + one[3] <= other[1] or other[1] + other[3] <= one[1])  # fmt: skip
        assert apart, (one, other)


def test_every_alert_has_its_paragraph_in_the_runbook() -> None:
    alerts = re.findall(r"^    ([\w-]+) = \{$", MONITORING, re.MULTILINE)
    assert len(alerts) >= 8
    section = RUNBOOK.split("## What to do at an alert", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^### ([\w-]+)$", section, re.MULTILINE) == alerts


@pytest.fixture(scope="module")
def rendered(terraform: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The alerts and the dashboard as Terraform makes them, without a provider."""
    folder = tmp_path_factory.mktemp("monitoring")
    for name in ("variables.tf", "dashboard.json"):
        shutil.copyfile(TERRAFORM / name, folder / name)
    text = re.sub(r"google_\w+\.\w+(\[\S+?\])?\.\w+", '"a-name"', MONITORING)
    alerts = re.search(
        r"^locals \{.*?^\}", text.replace('${"a-name"}', "a-name"), re.MULTILINE | re.DOTALL
    )
    board = re.search(r"templatefile\(.*?\}\)", text, re.DOTALL)
    assert alerts and board
    (folder / "main.tf").write_text(
        'locals {\n  job = "battery-pipeline"\n}\n' + alerts[0]
        + "\noutput \"alerts\" {\n  value = local.alerts\n}\n"
        + f'output "dashboard" {{\n  value = jsondecode({board[0]})\n}}\n'
    )  # fmt: skip
    assert tools.terraform(folder, ["init"]).returncode == 0
    done = tools.terraform(folder, ["apply", "-auto-approve", "-var=project=my-project"])
    assert done.returncode == 0, done.stderr
    found = json.loads(tools.terraform(folder, ["output", "-json"]).stdout)
    return {name: one["value"] for name, one in found.items()}


@pytest.mark.long
@pytest.mark.timeout(900)
def test_queries_and_dashboard_are_what_cloud_monitoring_reads(
    rendered: dict[str, object], checkers: Path
) -> None:
    script = (
        "import json, sys, promql_parser\n"
        "from google.cloud.monitoring_dashboard_v1 import Dashboard\n"
        "given = json.load(sys.stdin)\n"
        "for alert in given['alerts'].values(): promql_parser.parse(alert['query'])\n"
        "for tile in given['dashboard']['mosaicLayout']['tiles']:\n"
        "    widget = tile['widget']\n"
        "    shown = [widget['scorecard']] if 'scorecard' in widget else widget['xyChart']['dataSets']\n"
        "    for one in shown: promql_parser.parse(one['timeSeriesQuery']['prometheusQuery'])\n"
        "Dashboard.from_json(json.dumps(given['dashboard']))\n"
        "print(len(given['alerts']), len(given['dashboard']['mosaicLayout']['tiles']))\n"
    )
    done = subprocess.run(
        [str(checkers), "-c", script], input=json.dumps(rendered),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [int(count) >= 8 for count in done.stdout.split()] == [True, True]


def test_alerts_and_dashboard_look_at_this_deployments_job(rendered: dict[str, object]) -> None:
    text = json.dumps(rendered)
    assert "${" not in text
    for query in re.findall(r"dataflow_googleapis_com:\w+\{.*?\}", text.replace("\\", "")):
        assert 'job_name="battery-pipeline"' in query
