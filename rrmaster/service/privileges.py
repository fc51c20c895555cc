"""How does a master become another user, once its addresses are bound?

With ``--user`` master and workers become that user.  With ``--master-user``, too, the master becomes that one and keeps
of root's capabilities the one to signal any process; a process that stays root starts the workers (`Starter`).
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
from collections.abc import Callable, Sequence

from ..config.option import SettingsError
from ..config.settings import Settings
from ..logs import access
from ..logs.setup import give_ownership
from ..processes.two_users import as_root
from ..processes.two_users.as_root import KILL, keep_capabilities
from ..processes.two_users.starter import Starter
from .cannot_start import CannotStart

Give = Callable[[int, int], object]
"""Gives something that root has made to a user and a group."""

_SET_KEEPCAPS = 8
"""linux/prctl.h"""


def give_up_root(settings: Settings, to_give: Sequence[Give] = ()) -> Starter | None:
    """Become the user that these settings want; returns what starts workers if these have another one.

    `to_give` is called with the new user and group of the master, while this process is root.
    Irrevocable.  Raises CannotStart, and SettingsError for an unknown name.
    """
    forbids = settings.new_privileges == "off" or (settings.new_privileges == "auto" and settings.user is not None)
    starter = None
    if settings.user is not None and settings.master_user is not None:
        starter = _separate(settings.user, settings.group, settings.master_user, forbids, to_give)
    else:
        drop_privileges(settings.user, settings.group, to_give)
    if forbids:
        forbid_new_privileges()
    return starter


def _separate(user: str, group: str | None, master_user: str, forbids: bool, to_give: Sequence[Give]) -> Starter:
    uid, gid, name = _user_and_group(user, group)
    own, own_group, own_name = _user_and_group(master_user, None, "--master-user")
    if own in (0, uid) or uid == 0:
        raise SettingsError("--master-user and --user: two users are needed, and root is neither")
    if os.geteuid() != 0:
        raise CannotStart("only root can become two users (--master-user)")
    groups = os.getgrouplist(name, gid) if name is not None else [gid]
    groups = [gid, *(other for other in groups if other != gid)]
    try:
        starter = Starter.launch(uid, groups, _home_of(uid), forbids)
    except OSError as error:
        raise CannotStart(f"what starts the workers (--master-user) cannot be started: {error.strerror}") from None
    try:
        _become_master(own, own_group, own_name, to_give)
    except BaseException:
        starter.close()
        raise
    return starter


def _become_master(uid: int, gid: int, name: str | None, to_give: Sequence[Give]) -> None:
    import ctypes

    _give_all(uid, gid, to_give)
    prctl = ctypes.CDLL(None).prctl
    prctl(_SET_KEEPCAPS, 1, 0, 0, 0)
    _change(uid, gid, name)
    try:
        keep_capabilities(KILL)
    except OSError as error:
        raise CannotStart(f"the master cannot keep the right to signal its workers: {error}") from None
    prctl(_SET_KEEPCAPS, 0, 0, 0, 0)
    os.environ.update(_home_of(uid))
    _check_that_root_is_gone()


def _give_all(uid: int, gid: int, to_give: Sequence[Give]) -> None:
    for give in (give_ownership, access.give_ownership, *to_give):
        give(uid, gid)


def drop_privileges(user: str | None, group: str | None, to_give: Sequence[Give] = ()) -> None:
    """Become another user and group, irrevocably.  Raises CannotStart, and SettingsError for an unknown name."""
    if user is None and group is None:
        return
    uid, gid, name = _user_and_group(user, group)
    _give_all(uid, gid, to_give)
    try:
        _change(uid, gid, name)
    except PermissionError:
        raise CannotStart("only root can become another user (--user, --group)") from None
    if user is not None:
        os.environ.update(_home_of(uid))
    if uid != 0:
        _check_that_root_is_gone()


def _change(uid: int, gid: int, name: str | None) -> None:
    # In this order: without root neither the groups nor the group can be changed.
    if name is not None:
        os.initgroups(name, gid)
    else:
        os.setgroups([gid])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _check_that_root_is_gone() -> None:
    with contextlib.suppress(PermissionError):  # that root cannot be had again is what we want
        os.setuid(0)
        raise CannotStart("root's rights could not be given up")


def forbid_new_privileges() -> None:
    """Let no program that this process or a descendant executes gain privileges: prctl(2), PR_SET_NO_NEW_PRIVS.

    Irrevocable.  Raises CannotStart where it cannot be had.
    """
    try:
        done = as_root.forbid_new_privileges()
    except (ImportError, OSError, AttributeError):  # an interpreter without ctypes, or a C library without that
        done = False
    if not done:
        raise CannotStart(
            "new privileges cannot be forbidden here, as --user and --new-privileges off want it: start rrmaster with "
            "`setpriv --no-new-privs` and --new-privileges on, which then changes nothing"
        )


def _user_and_group(user: str | None, group: str | None, option: str = "--user") -> tuple[int, int, str | None]:
    uid, gid, name = os.getuid(), os.getgid(), None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if user is None or not user.isdigit():
            raise SettingsError(f"{option}: there is no user {user!r}") from None
        uid = gid = int(user)  # a number without a name, as in a container
    try:
        if group is not None:
            gid = int(group) if group.isdigit() else grp.getgrnam(group).gr_gid
    except KeyError:
        raise SettingsError(f"--group: there is no group {group!r}") from None
    return uid, gid, name


def _home_of(uid: int) -> dict[str, str]:
    """What login(1) would set: with root's HOME, libraries look for caches and keys where they may not read."""
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return {"HOME": "/", "USER": str(uid), "LOGNAME": str(uid)}
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
