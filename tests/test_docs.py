"""The documentation says what is so."""

from pathlib import Path

from rrmaster.lifecycle import as_table

ROOT = Path(__file__).resolve().parent.parent


def test_the_law_in_the_documentation_is_the_codes():
    """To renew it: python -c "from rrmaster.lifecycle import as_table; print(as_table())"."""
    assert as_table() in (ROOT / "docs" / "architecture.md").read_text()


def test_every_option_in_the_readme_exists():
    import re

    from rrmaster.settings import options

    flags = {"--" + name.replace("_", "-") for name in options()} | {"--help", "--editable", "--json"}
    assert set(re.findall(r"--[a-z][a-z-]+", (ROOT / "README.md").read_text())) <= flags
