"""Every option says whether a reload can change it."""

import pytest

from rrmaster.cli.arguments import make_parser
from rrmaster.config.option import Scope
from rrmaster.config.settings import Settings, changes_that_need_a_restart, options
from tests.config.values import APP, BESIDE, GOOD

NEED_A_RESTART = {
    "user", "group", "master_user", "new_privileges", "umask", "pid", "chdir", "control", "name",
    "log_level", "log_format", "log_file", "log_max_size", "log_keep", "admin", "admin_allow_remote", "admin_actions",
    "admin_token_file", "ready_when",
    "reload", "reload_dir", "reload_include", "reload_exclude",
}  # fmt: skip
"""A promise to users: an option that leaves this set, or enters it, is a change of behaviour."""


@pytest.mark.parametrize("name", options())
def test_every_option_has_a_scope(name):
    assert options()[name].scope is (Scope.MASTER if name in NEED_A_RESTART else Scope.RELOAD)


@pytest.mark.parametrize("name", sorted(NEED_A_RESTART))
def test_a_changed_option_that_needs_a_restart_is_named(name):
    beside = BESIDE.get(name, {})
    current = Settings(APP, **beside)
    value = next(value for value, wanted in GOOD[name] if wanted != getattr(current, name))
    assert changes_that_need_a_restart(current, Settings(APP, **beside | {name: value})) == [name]


def test_no_other_change_is_named():
    changed = {name: GOOD[name][0][0] for name in options() if name not in NEED_A_RESTART | {"cert_reqs"}}
    assert changes_that_need_a_restart(Settings(APP), Settings(APP, **changed, cert_reqs="required")) == []


def test_the_help_of_an_option_says_that_it_needs_a_restart():
    helps = {action.dest: action.help for action in make_parser()._actions if action.dest in options()}
    assert {name for name, text in helps.items() if "restart to change" in text} == NEED_A_RESTART
