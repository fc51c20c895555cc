"""What shells complete, tried in each shell that is installed here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from rrmaster.cli.arguments import VERBS
from rrmaster.cli.commands import COMMANDS
from rrmaster.cli.completion import SHELLS
from rrmaster.cli.main import main

pytest.importorskip("shtab")

BASH = """
source "$1"; read -ra COMP_WORDS <<< "$2"; [[ $2 == *' ' ]] && COMP_WORDS+=("")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _shtab_rrmaster; printf '%s\\n' "${COMPREPLY[@]}"
"""
FISH = "source $argv[1]; complete -C $argv[2]"
COMMANDS_OF = {"bash": ["bash", "--norc", "-c", BASH, "bash"], "fish": ["fish", "--no-config", "-c", FISH]}


@pytest.fixture(params=sorted(COMMANDS_OF))
def shell(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    if shutil.which(found) is None:
        pytest.skip(f"there is no {found} here")
    return found


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("rrmaster sta", {"status", "stacks"}),
        ("rrmaster --policy ", {"least-loaded", "round-robin", "random-two", "ip-hash"}),
        ("rrmaster check --preload ", {"auto", "on", "off"}),
        ("rrmaster completion ", set(SHELLS)),
        ("rrmaster logs --fol", {"--follow"}),
        ("rrmaster -w 2 --log-lev", {"--log-level"}),
    ],
)
def test_a_shell_completes_verbs_options_and_their_values(
    shell: str, typed: str, offered: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "completion"
    file.write_text(script(shell, capsys))
    command = [*COMMANDS_OF[shell], str(file), typed]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert {line.split("\t")[0] for line in done.stdout.splitlines()} == offered, done.stderr


@pytest.mark.parametrize("shell_", SHELLS)
def test_each_script_knows_every_verb(shell_: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell_, capsys)
    assert set(VERBS) == {*COMMANDS, "check", "systemd-unit", "completion"}
    assert [verb for verb in VERBS if verb not in text] == []


def test_zsh_takes_the_script_without_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    zsh = shutil.which("zsh")
    if zsh is None:
        pytest.skip("there is no zsh here")
    (tmp_path / "_rrmaster").write_text(script("zsh", capsys))
    text = 'fpath=("$1" $fpath); autoload -Uz compinit; compinit -u -D; print -r -- $_comps[rrmaster]'
    command = [zsh, "-f", "-c", text, "zsh", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.stdout, done.stderr) == ("_rrmaster\n", "")


def test_a_shell_that_is_not_known_is_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
