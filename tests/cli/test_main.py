"""The arguments of the command line are divided between rrmaster and a program."""

import pytest

from rrmaster.cli import main


@pytest.mark.parametrize(
    ("argv", "application", "arguments"),
    [
        (["-w", "4", "server.py", "-w", "8", "--help", "x:y"], "server.py", ["-w", "8", "--help", "x:y"]),
        (["--workers=4", "--access-log", "./a/b.py"], "./a/b.py", []),
        (["-w4", "-m", "shop.server", "-m", "x"], "-m shop.server", ["-m", "x"]),
        (["-mshop", "server.py"], "-m shop", ["server.py"]),
        (["shop:app", "-w", "4"], "shop:app", []),
        (["-c", "x.py", "shop.py:app"], "shop.py:app", []),
    ],
)
def test_everything_after_a_program_belongs_to_the_program(argv, application, arguments):
    parsed = main._parse(argv)
    assert (parsed.application, list(parsed.arguments)) == (application, arguments)


def test_a_program_beside_an_application_is_refused():
    with pytest.raises(main._Usage, match="already named"):
        main._parse(["shop:app", "server.py"])
