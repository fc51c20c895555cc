"""The working directory as the operator named it: its links stay, and are followed when they are used."""

import os

import pytest

from rrmaster.config.directory import change_directory, logical_directory, logical_path


@pytest.fixture
def releases(tmp_path, monkeypatch):
    """``current -> releases/1``, beside a second release."""
    for number in ("1", "2"):
        (tmp_path / "releases" / number / "app").mkdir(parents=True)
    (tmp_path / "current").symlink_to("releases/1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PWD", str(tmp_path))
    return tmp_path


def switch(releases):
    (releases / "new").symlink_to("releases/2")
    (releases / "new").rename(releases / "current")


def test_a_directory_entered_by_a_link_keeps_its_name(releases):
    change_directory("current")
    assert os.getcwd() == str(releases / "releases" / "1")
    assert logical_directory() == str(releases / "current")
    assert logical_path("app/x.pem") == str(releases / "current" / "app" / "x.pem")
    change_directory("app")
    assert logical_directory() == str(releases / "current" / "app")


def test_a_link_that_was_switched_is_followed_when_it_is_entered_again(releases):
    change_directory("current")
    name = logical_directory()
    switch(releases)
    change_directory(name)
    assert os.getcwd() == str(releases / "releases" / "2")


@pytest.mark.parametrize("pwd", ["", "relative", "/nowhere", "/"])
def test_a_pwd_that_names_another_directory_is_not_believed(releases, pwd, monkeypatch):
    monkeypatch.setenv("PWD", pwd)
    assert logical_directory() == str(releases)


def test_a_directory_that_cannot_be_entered_changes_nothing(releases):
    with pytest.raises(OSError, match="nowhere"):
        change_directory("nowhere")
    assert logical_directory() == str(releases)
