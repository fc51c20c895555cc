"""The dashboard and the alert rules name metrics and labels that exist."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from attrs import evolve
from prometheus_client.parser import text_string_to_metric_families

from rrmaster.admin.metrics import exposition
from rrmaster.events.totals import FleetTotals, SlotTotals
from rrmaster.protocol.pages.figures import DURATIONS, WAITS, Histogram
from rrmaster.status.model import PoolStatus, TemplateStatus
from tests.status.snapshots import a_snapshot, a_worker

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DASHBOARD, ALERTS = EXAMPLES / "grafana/dashboard.json", EXAMPLES / "prometheus/alerts.yml"


def known() -> dict[str, set[str]]:
    """The labels of each sample that a full snapshot has."""
    durations, waits = Histogram((0,) * (len(DURATIONS) + 1)), Histogram((0,) * (len(WAITS) + 1))
    full = evolve(
        a_snapshot(a_worker(0, oldest_ms=5, request_duration=durations, accept_wait=waits)),
        totals=FleetTotals((SlotTotals(0),), {"exit": 1}, {"committed": 1}),
        templates=(TemplateStatus(2, 1, "in use", 1.0),),
        pool=PoolStatus(pid=7, held=1, parked=1, parked_per_s=1.0, resumed=1),
    )
    text = exposition(full, "")[0].decode()
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions() -> list[str]:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    rules = re.findall(r"expr: (?:>-\n\s+)?(.+)", ALERTS.read_text())
    return [target["expr"] for panel in panels for target in panel["targets"]] + rules


def test_each_metric_and_label_that_an_example_asks_for_exists() -> None:
    labels = known()
    asked = expressions()
    assert len(asked) > 30
    for expression in asked:
        names = re.findall(r"\brrmaster_\w+", expression)
        assert names
        assert set(names) <= set(labels), expression
        by = {word.strip() for words in re.findall(r"by \(([^)]*)\)", expression) for word in words.split(",")}
        assert by <= set.union(*(labels[name] for name in names)) | {"instance"}, expression


def test_the_panels_of_the_dashboard_do_not_overlap_and_have_a_title_each() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    places = [panel["gridPos"] for panel in panels]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["title"] for panel in panels} - {""}) == len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool comes with Debian's prometheus")
@pytest.mark.parametrize("words", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]])
def test_the_alert_rules_fire_when_they_should(words: list[str]) -> None:
    done = subprocess.run(["promtool", *words], cwd=ALERTS.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_autoscaler_asks_for_what_the_adapter_computes_from_a_metric_that_exists() -> None:
    yaml = pytest.importorskip("yaml")
    busy = EXAMPLES / "kubernetes/busy"
    (rule,) = yaml.safe_load((busy / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    metrics = yaml.safe_load((busy / "horizontalpodautoscaler.yaml").read_text())["spec"]["metrics"]
    assert [metric["pods"]["metric"]["name"] for metric in metrics if metric["type"] == "Pods"] == [rule["name"]["as"]]
    assert rule["seriesQuery"].partition("{")[0] in known()
