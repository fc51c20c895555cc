"""The arguments of the command line are divided between rrmaster and a program."""

import pytest

from rrmaster.cli.arguments import UsageError, parse_arguments


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
    parsed = parse_arguments(argv)
    assert (parsed.application, list(parsed.arguments)) == (application, arguments)


@pytest.mark.parametrize(
    ("argv", "where", "application"),
    [
        (["--access-log", "shop:app"], "on", "shop:app"),
        (["--access-log", "shop/main.py:app"], "on", "shop/main.py:app"),
        (["--access-log", "server.py"], "on", "server.py"),
        (["--access-log", "--workers", "4", "shop:app"], "on", "shop:app"),
        (["shop:app", "--access-log"], "on", "shop:app"),
        (["shop:app", "--access-log", "-", "-w", "4"], "-", "shop:app"),
        (["--access-log", "-", "shop:app"], "-", "shop:app"),
        (["--access-logfile", "logs/a.log", "shop:app"], "logs/a.log", "shop:app"),
        (["--access-log=on:1", "shop:app"], "on:1", "shop:app"),
        (["--no-access-log", "shop:app"], "off", "shop:app"),
    ],
)
def test_the_access_log_is_a_switch_that_may_have_a_value(argv, where, application):
    parsed = parse_arguments(argv)
    assert (parsed.access_log, parsed.application) == (where, application)


def test_what_a_program_is_given_stays_as_it_is():
    parsed = parse_arguments(["--access-log", "server.py", "--access-log", "x:y"])
    assert (parsed.access_log, list(parsed.arguments)) == ("on", ["--access-log", "x:y"])


def test_a_program_beside_an_application_is_refused():
    with pytest.raises(UsageError, match="already named"):
        parse_arguments(["shop:app", "server.py"])


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["--name", "my shop", "status"], "rrmaster status --name 'my shop'"),
        (["--control", "x", "stop", "--now"], "rrmaster stop --control x --now"),
        (["-w", "2", "check", "shop:app"], "rrmaster check -w 2 shop:app"),
    ],
)
def test_a_verb_behind_options_is_told_where_it_belongs(argv, meant):
    with pytest.raises(UsageError) as told:
        parse_arguments(argv)
    assert str(told.value).endswith(f"a verb comes before its options: {meant}")


def test_the_value_of_an_option_is_no_verb():
    assert parse_arguments(["--name", "status", "shop:app"]).application == "shop:app"
