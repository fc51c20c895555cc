"""How does a master become another user, once its addresses are bound?"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd

from ..config.option import SettingsError
from ..logs import access
from ..logs.setup import give_ownership
from .cannot_start import CannotStart

_SET_NO_NEW_PRIVS = 38
"""linux/prctl.h"""


def drop_privileges(user: str | None, group: str | None) -> None:
    """Become another user and group, irrevocably.  Raises CannotStart, and SettingsError for an unknown name."""
    if user is None and group is None:
        return
    uid, gid, name = _user_and_group(user, group)
    give_ownership(uid, gid)
    access.give_ownership(uid, gid)
    try:
        # In this order: without root neither the groups nor the group can be changed.
        if name is not None:
            os.initgroups(name, gid)
        else:
            os.setgroups([gid])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except PermissionError:
        raise CannotStart("only root can become another user (--user, --group)") from None
    if user is not None:
        os.environ.update(_home_of(uid))
    if uid != 0:
        with contextlib.suppress(PermissionError):  # that root cannot be had again is what we want
            os.setuid(0)
            raise CannotStart("root's rights could not be given up")


def forbid_new_privileges() -> None:
    """Let no program that this process or a descendant executes gain privileges: prctl(2), PR_SET_NO_NEW_PRIVS.

    Irrevocable.  Raises CannotStart where it cannot be had.
    """
    try:
        import ctypes

        done = ctypes.CDLL(None).prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    except (ImportError, OSError, AttributeError):  # an interpreter without ctypes, or a C library without that
        done = False
    if not done:
        raise CannotStart(
            "new privileges cannot be forbidden here, as --user and --new-privileges off want it: start rrmaster with "
            "`setpriv --no-new-privs` and --new-privileges on, which then changes nothing"
        )


def _user_and_group(user: str | None, group: str | None) -> tuple[int, int, str | None]:
    uid, gid, name = os.getuid(), os.getgid(), None
    try:
        if user is not None:
            entry = pwd.getpwuid(int(user)) if user.isdigit() else pwd.getpwnam(user)
            uid, gid, name = entry.pw_uid, entry.pw_gid, entry.pw_name
    except KeyError:
        if user is None or not user.isdigit():
            raise SettingsError(f"--user: there is no user {user!r}") from None
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
