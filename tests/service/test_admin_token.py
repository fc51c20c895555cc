"""The token of --admin-actions comes from a file or from the environment, and a poor one is refused at the start."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrmaster.config.settings import Settings
from rrmaster.config.sources import TOKEN_VARIABLE
from rrmaster.service.admin_token import LONGEST, SHORTEST, token_of
from rrmaster.service.cannot_start import CannotStart

GOOD = "0123456789abcdef"


def settings(file: Path | None = None, **more: object) -> Settings:
    known = {"admin": "127.0.0.1:9000", "admin_actions": True, "admin_token_file": str(file) if file else None}
    return Settings("a:b", **(known | more))


def test_the_token_is_the_first_line_of_the_file_or_else_the_variable(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{GOOD}\nand a remark\n")
    assert token_of(settings(file), {TOKEN_VARIABLE: "another-token-of-theirs"}) == GOOD
    assert token_of(settings(), {TOKEN_VARIABLE: GOOD}) == GOOD


def test_without_actions_no_token_is_read() -> None:
    assert token_of(settings(admin_actions=False), {TOKEN_VARIABLE: GOOD}) == ""
    assert token_of(Settings("a:b"), {TOKEN_VARIABLE: GOOD}) == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has 0 characters"),
        ("\n" + GOOD, "has 0 characters"),
        ("x" * (SHORTEST - 1), f"has {SHORTEST - 1} characters, and {SHORTEST} to {LONGEST} make one"),
        ("x" * (LONGEST + 1), "characters, and"),
        ("two words of a token", "one word of ASCII characters"),
        ("gr\u00fc\u00dfe-aus-der-ferne", "one word of ASCII characters"),
    ],
)
def test_a_poor_token_is_refused_and_not_shown(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(CannotStart, match=said) as error:
        token_of(settings(file), {})
    assert str(file) in str(error.value)
    assert text == "" or text not in str(error.value)


def test_no_token_and_no_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=f"--admin-token-file, or set {TOKEN_VARIABLE}"):
        token_of(settings(), {})
    with pytest.raises(CannotStart, match="token: it cannot be read: No such file"):
        token_of(settings(tmp_path / "token"), {})
