"""The sources of settings: which one wins, how each spells a name, and which names are unknown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rrmaster.config import sources
from rrmaster.config.option import SettingsError, flag
from rrmaster.config.settings import Settings, options
from rrmaster.config.sources import Source, conventions, from_environment, from_table, read, variable
from tests.config.values import APP, BAD, BESIDE, GOOD, LAW, pairs, served

ORDER = ("command line", "environment", "rrmaster.toml")


@LAW
@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"workers": st.integers(1, 9), "window": st.integers(1, 9), "backlog": st.integers(1, 9)}
        ),
        min_size=3,
        max_size=3,
    )
)
def test_flags_come_before_environment_before_file_before_default(tables):
    flags, environ, file = tables
    environment, warnings = from_environment({variable(name): str(value) for name, value in environ.items()})
    chosen, origins = read([served(**flags), environment, from_table(file, "rrmaster.toml")])
    assert warnings == []
    for name in ("workers", "window", "backlog"):
        origin = next((where for where, table in zip(ORDER, tables, strict=True) if name in table), "default")
        assert origins[name] == origin
        wanted = getattr(Settings(APP), name) if origin == "default" else tables[ORDER.index(origin)][name]
        assert getattr(chosen, name) == wanted
    assert origins["application"] == "command line"


def test_every_value_has_an_origin():
    _, origins = read([served()])
    assert origins.keys() == {"application", "arguments", *options()}
    assert set(origins.values()) == {"command line", "default"}


def test_the_error_without_an_application_names_one_to_try():
    with pytest.raises(SettingsError, match=r"rrmaster\.demo:hello"):
        read([])


def test_the_application_may_stand_in_the_file():
    chosen, origins = read([Source("command line", {}), from_table({"application": APP}, "rrmaster.toml")])
    assert chosen.application == APP
    assert origins["application"] == "rrmaster.toml"


# --- how names are spelled


@pytest.mark.parametrize(("name", "value"), pairs(BAD))
def test_a_bad_value_is_refused_under_its_name_in_the_source(name, value):
    good = {"application": APP}
    for source, spelled in (
        (lambda: Source("command line", good | {name: value}), flag(name)),
        (lambda: Source("environment", good | {name: value}, variable), variable(name)),
        (lambda: from_table(good | {name: value}, "rrmaster.toml"), f"rrmaster.toml: {name}"),
    ):
        with pytest.raises(SettingsError) as caught:
            read([source()])
        assert str(caught.value).startswith(f"{spelled}: ")
        assert "\n" not in str(caught.value).strip()


@pytest.mark.parametrize("key", ["recall-after", "recall_after"])
def test_a_key_of_the_file_is_refused_as_it_is_written_there(key):
    with pytest.raises(SettingsError, match=f"^rrmaster.toml: {key}: "):
        read([served(), from_table({key: "soon"}, "rrmaster.toml")])


@pytest.mark.parametrize("name", options())
def test_every_option_is_a_variable_and_a_key(name):
    value = next(value for value, wanted in GOOD[name] if isinstance(value, str))
    environment, _ = from_environment({f"RRMASTER_{name.upper()}": value})
    for source in (environment, from_table({name.replace("_", "-"): value}, "f"), from_table({name: value}, "f")):
        chosen, origins = read([source, served(**BESIDE.get(name, {}))])
        assert getattr(chosen, name) == getattr(Settings(APP, **BESIDE.get(name, {}) | {name: value}), name)
        assert origins[name] == source.name


def test_a_variable_that_looks_like_an_option_and_is_not_one_gets_a_warning():
    source, warnings = from_environment({"RRMASTER_WORKER": "4", "HOME": "/", "RRMASTER_WINDOW": "4"})
    assert warnings == ["RRMASTER_WORKER is not a setting of rrmaster and is ignored; did you mean RRMASTER_WORKERS?"]
    assert source.values == {"window": "4"}


def test_the_variables_that_a_master_sets_for_its_workers_get_no_warning():
    """A master that a worker of another master starts has them in its environment."""
    _, warnings = from_environment(dict.fromkeys(sources.WORKER_VARIABLES, "1"))
    assert warnings == []


@pytest.mark.parametrize(
    ("key", "instead"), [("worker", "workers"), ("bindd", "bind"), ("graceful-timeot", "graceful_timeout")]
)
def test_an_unknown_key_is_refused_with_a_suggestion(key, instead):
    with pytest.raises(SettingsError, match=rf"^rrmaster\.toml: there is no setting '{key}'; did you mean {instead}\?"):
        read([from_table({"application": APP, key: 4}, "rrmaster.toml")])


def test_an_unknown_key_that_resembles_no_other_is_refused_without_a_suggestion():
    with pytest.raises(SettingsError) as caught:
        read([served(), from_table({"zzz": 4}, "rrmaster.toml")])
    assert "did you mean" not in str(caught.value)


@pytest.mark.parametrize("key", ["unix_mode", "unix-mode", "umask"])
def test_a_mode_in_a_file_is_text(key):
    """A plain 440 would be 0o670."""
    with pytest.raises(SettingsError, match=f"rrmaster.toml: {key}: write the mode as text"):
        read([served(), from_table({key: 440}, "rrmaster.toml")])


def test_all_mistakes_of_all_sources_are_told_at_once():
    file = from_table({"worker": 4, "umask": 22, "backlog": "many", "application": APP}, "rrmaster.toml")
    environment, _ = from_environment({"RRMASTER_WINDOW": "wide", "RRMASTER_BACKLOG": "9"})
    flags = Source("command line", {"bind": ["nowhere:x"], "workers": "0"}, flag, mistakes=("--loop: there is none",))
    with pytest.raises(SettingsError) as caught:
        read([flags, environment, file])
    begins = ("--loop", "rrmaster.toml: there is no setting 'worker'", "rrmaster.toml: umask")
    values = ("--bind", "--workers", "RRMASTER_WINDOW")
    for said, begin in zip(sorted(caught.value.args), sorted((*begins, *values)), strict=True):
        assert said.startswith(begin)
        assert "\n" not in said


# --- variables of the platform


def test_a_variable_of_the_platform_loses_to_every_option():
    """WEB_CONCURRENCY and PORT, as gunicorn and uvicorn read them."""
    environ = {"WEB_CONCURRENCY": "3", "PORT": "5000"}
    chosen, origins = read([served(), conventions(environ)])
    assert (chosen.workers, chosen.bind) == (3, ("0.0.0.0:5000",))
    assert (origins["workers"], origins["bind"]) == ("environment", "environment")
    chosen, _ = read([served(workers="7"), from_table({"bind": "localhost:1"}, "x.toml"), conventions(environ)])
    assert (chosen.workers, chosen.bind) == (7, ("localhost:1",))


def test_the_platform_may_name_the_proxies():
    chosen, _ = read([served(), conventions({"FORWARDED_ALLOW_IPS": "10.0.0.0/8"})])
    assert chosen.forwarded_allow_ips == "10.0.0.0/8"


def test_empty_variables_of_the_platform_count_as_unset():
    chosen, origins = read([served(), conventions({"WEB_CONCURRENCY": "", "PORT": "", "FORWARDED_ALLOW_IPS": ""})])
    assert chosen == Settings(APP)
    assert origins["workers"] == "default"


@pytest.mark.parametrize("name", ["WEB_CONCURRENCY", "PORT", "FORWARDED_ALLOW_IPS"])
def test_a_bad_variable_of_the_platform_is_named(name):
    with pytest.raises(SettingsError, match=f"^{name}: "):
        read([served(), conventions({name: "many"})])


# --- programs


def test_a_program_reads_the_address_variables_of_the_platform_itself():
    platform = conventions({"PORT": "80", "WEB_CONCURRENCY": "3", "FORWARDED_ALLOW_IPS": "*"})
    chosen, origins = read([Source("command line", {"application": "server.py"}), platform])
    assert (chosen.bind, chosen.workers, origins["bind"]) == ((), 3, "default")
    assert read([served(), platform])[0].bind == ("0.0.0.0:80",)


def test_a_program_and_its_arguments_may_stand_in_the_file():
    chosen, _ = read([from_table({"application": "-m shop", "arguments": ["-v"]}, "rrmaster.toml")])
    assert (chosen.application, chosen.arguments) == ("-m shop", ("-v",))
