"""What the help of a verb says."""

from __future__ import annotations

import pytest

from rrmaster.cli.arguments import VERBS
from rrmaster.cli.main import main
from rrmaster.status.tables import COLUMNS


def help_of(verb: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", ["status", "workers"])
def test_the_help_of_a_table_explains_its_columns(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.strip() for line in help_of(verb, capsys).splitlines()]
    for column in COLUMNS:
        assert any(line.startswith(f"{column.title} ") for line in lines), column.title


def test_the_help_of_retire_says_that_it_does_what_restart_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert "`retire` and `restart` do exactly the same" in " ".join(help_of("retire", capsys).split())


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb not in ("check", "systemd-unit")])
def test_the_help_of_a_verb_fits_80_columns(
    verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, help_of(verb, capsys).splitlines())) <= 80
