"""A misspelt word is refused with the right one.  (`values` has the names and words that are understood.)"""

import pytest

from rrmaster.config.names import suggestion
from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings, options
from tests.config.values import APP


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [("policy", "least-loded", "least-loaded"), ("policy", "iphash", "ip-hash"), ("log_level", "warn", "warning")],
)
def test_a_misspelt_word_gets_a_suggestion(field, value, instead):
    with pytest.raises(SettingsError, match=rf"did you mean {instead}\?"):
        Settings(APP, **{field: value})


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("--bnd", "; did you mean --bind?"),
        ("--acess-log", "; did you mean --access-log?"),
        ("RRMASTER_WORKER", "; did you mean RRMASTER_WORKERS?"),
        ("--ssl", ""),
        ("--tls", ""),
        ("--ip-hash", ""),
        ("--use-colors", ""),
        ("RRMASTER_NONSENSE", ""),
    ],
)
def test_only_words_that_are_alike_beyond_their_beginning_are_suggested(word, hint):
    on_command_line = [f"--{name.replace('_', '-')}" for name in options()]
    in_environment = [f"RRMASTER_{name.upper()}" for name in options()]
    assert suggestion(word, on_command_line if word.startswith("--") else in_environment) == hint
