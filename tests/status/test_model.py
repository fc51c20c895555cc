"""A snapshot as JSON: it survives the way from one version to another."""

from __future__ import annotations

import json

import pytest
from hypothesis import given

from rrmaster.status.model import ReloadStatus, WorkerStatus, as_json_text, from_json, to_json
from tests.status.snapshots import FOUR, a_snapshot, some_workers


@given(some_workers)
def test_what_is_told_is_what_is_read(workers: list[WorkerStatus]) -> None:
    snapshot = a_snapshot(*workers, reload=ReloadStatus("soaking", 3))
    assert from_json(json.loads(json.dumps(to_json(snapshot)))) == snapshot


def test_an_older_reader_skips_what_it_does_not_know() -> None:
    told = to_json(FOUR)
    told["mood"] = "good"
    told["workers"][0]["mood"] = "better"
    assert from_json(told) == FOUR


def test_a_newer_reader_fills_in_what_is_not_told() -> None:
    told = to_json(FOUR)
    del told["refused"], told["workers"][0]["last_exit"]
    assert from_json(told) == FOUR


@pytest.mark.parametrize("told", [{}, {"workers": 3}, {"workers": [1]}, {"reload": "no"}])
def test_what_is_no_status_is_refused(told: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="no status"):
        from_json(told)


def test_the_text_for_programs_is_one_json_object() -> None:
    assert json.loads(as_json_text(FOUR))["workers"][3]["slot"] == 3
