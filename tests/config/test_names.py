"""A misspelt word is refused with the right one.  (`values` has the names and words that are understood.)"""

import pytest

from rrmaster.config.option import SettingsError
from rrmaster.config.settings import Settings
from tests.config.values import APP


@pytest.mark.parametrize(
    ("field", "value", "instead"),
    [("policy", "least-loded", "least-loaded"), ("policy", "iphash", "ip-hash"), ("log_level", "warn", "warning")],
)
def test_a_misspelt_word_gets_a_suggestion(field, value, instead):
    with pytest.raises(SettingsError, match=rf"did you mean {instead}\?"):
        Settings(APP, **{field: value})
