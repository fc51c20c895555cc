"""A snapshot as JSON: it survives the way from one version to another."""

from __future__ import annotations

import json

import attrs
import pytest
from hypothesis import given

from rrmaster.status.model import ReloadStatus, WorkerStatus, as_json_text, from_json, to_json
from tests.status.snapshots import FOUR, a_snapshot, some_workers


@given(some_workers)
def test_a_snapshot_survives_the_way_through_json(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, reload=ReloadStatus("soaking", 3))
    assert from_json(json.loads(json.dumps(to_json(snapshot)))) == snapshot


@given(some_workers)
def test_each_field_is_in_the_json_under_its_name(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, reload=ReloadStatus("soaking", 3))
    assert json.dumps(to_json(snapshot)) == json.dumps(attrs.asdict(snapshot))


def test_an_older_reader_skips_unknown_keys() -> None:
    data = to_json(FOUR)
    data["mood"] = "good"
    data["workers"][0]["mood"] = "better"
    assert from_json(data) == FOUR


def test_a_newer_reader_fills_in_missing_keys() -> None:
    data = to_json(FOUR)
    del data["refused"], data["workers"][0]["last_exit"]
    for name in ("request_duration", "accept_wait", "latency_p50_s"):
        del data["workers"][1][name]
    del data["request_duration_bounds_s"]
    assert from_json(data) == FOUR


@pytest.mark.parametrize(
    "data", [{}, {"workers": 3}, {"workers": [1]}, {"reload": "no"}, {"workers": [{"request_duration": {}}]}]
)
def test_data_that_is_no_snapshot_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no status"):
        from_json(data)


def test_the_text_for_programs_is_one_json_object() -> None:
    assert json.loads(as_json_text(FOUR))["workers"][3]["slot"] == 3
