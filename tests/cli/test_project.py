"""In a project's directory, a verb acts on that project's master and on no other."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from attrs import evolve

from rrmaster.cli.configuration import configured, project_here
from rrmaster.config.directory import logical_directory
from tests.control.serving import EMPTY


def project(directory: Path, table: str = 'application = "main:app"\n') -> Path:
    directory.mkdir()
    (directory / "rrmaster.toml").write_text(table)
    return directory


@pytest.mark.parametrize("application", ["main:app", "other:app"])
def test_a_master_of_another_directory_is_another_projects(
    application: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = project(tmp_path / "one"), project(tmp_path / "other")
    monkeypatch.chdir(one)
    here = project_here()
    assert here is not None
    assert not here.is_served_by(evolve(EMPTY, application=application, directory=os.fspath(other)))
    assert here.is_served_by(evolve(EMPTY, application=application, directory=os.fspath(one)))


def test_a_master_that_works_where_the_file_leads_is_the_projects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = project(tmp_path / "one", 'chdir = "code"\n')
    (one / "code").mkdir()
    monkeypatch.chdir(one)
    here = project_here()
    assert here is not None
    assert here.is_served_by(evolve(EMPTY, directory=os.fspath(one / "code")))


def test_a_master_that_does_not_say_where_it_works_is_known_by_its_application(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path / "one"))
    here = project_here()
    assert here is not None
    assert here.is_served_by(evolve(EMPTY, application="main:app"))
    assert not here.is_served_by(evolve(EMPTY, application="other:app"))


def test_where_there_is_no_configuration_any_master_may_be_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert project_here() is None


def test_a_switched_link_is_still_the_same_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project(tmp_path / "1")
    project(tmp_path / "2")
    current = tmp_path / "current"
    current.symlink_to("1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", os.fspath(tmp_path))
    configured(["--chdir", "current"])
    began_in = logical_directory()
    current.unlink()
    current.symlink_to("2")
    os.chdir(current)
    here = project_here()
    assert here is not None
    assert here.is_served_by(evolve(EMPTY, directory=began_in))
