"""What a reload changes besides the code: settings, the workers' environment, addresses, policies.

::

    prepare ──► commit      the prepared settings are in force, new addresses are served, dropped ones closed
            └─► abandon     what was prepared is closed again

Everything that can fail is done in `prepare`, before any worker starts: the configuration is read, files are parsed,
new addresses are opened.  Until the commit the old addresses are served, and the new sockets only hold what arrives.
"""

from __future__ import annotations

import os
import random
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import trio
from attrs import Factory, define, evolve

from ..config.addresses import Inherited, parse_bind
from ..config.callables import load_callable
from ..config.directory import logical_directory, logical_path
from ..config.names import POLICIES
from ..config.option import SettingsError
from ..config.settings import Settings, changes_that_need_a_restart
from ..dispatch.dispatcher import Dispatcher
from ..dispatch.listeners import BindError, Listener, adopt, inherited_fds, open_listeners
from ..dispatch.listening.dynamic_listeners import DynamicListeners
from ..dispatch.load import Policy
from ..dispatch.policies import UserPolicy, policy_named
from ..logs import access
from ..logs.log import logger
from ..logs.trusted_path import open_trusted
from ..processes.worker_environment import app_directory
from ..protocol import tls
from .collaborators import ImportedCode
from .health_check import check_of


@define(eq=False)
class Change:
    """What a committed reload brings.  It owns the new listeners until then."""

    settings: Settings
    pinned: Settings
    """The settings for workers: see `pinned`."""
    environment: dict[str, str] = Factory(dict)
    opened: list[Listener] = Factory(list)
    directory: str = ""
    generation: int = 0

    def undo(self) -> None:
        """Close the new listeners."""
        for listener in self.opened:
            listener.close()
        self.opened.clear()


@define(eq=False)
class Reconfigurer:
    """The owner of the settings in force, and of those that a reload under way will bring."""

    settings: Settings
    dispatcher: Dispatcher
    dynamic_listeners: DynamicListeners
    reread: Callable[[], Settings] | None = None
    """Reads the configuration again.  Raises SettingsError.  None: it cannot change."""
    announce: Callable[[str], None] = lambda what: None
    """Called with "reloading" and "reloaded", for a service manager."""
    environment: dict[str, str] = Factory(lambda self: environment_of(self.settings), takes_self=True)
    """What the workers have in their environment beside the master's."""
    directory: str = Factory(lambda: os.path.realpath(logical_directory()))
    """The workers' working directory.  Symbolic links are followed once for each generation: a worker that is replaced
    later has the code of its generation, whatever a link names by then."""
    pinned: Settings = Factory(lambda self: pinned(self.settings), takes_self=True)
    _change: Change | None = None

    def __attrs_post_init__(self) -> None:
        self.dispatcher.configure(self.settings)

    def of_generation(self, generation: int) -> tuple[Settings, Mapping[str, str], str]:
        """The settings, the additional environment and the directory that the workers of a generation start with."""
        change = self._change
        if change is not None and change.generation == generation:
            return change.pinned, change.environment, change.directory
        return self.pinned, self.environment, self.directory

    def directory_of(self, generation: int) -> str:
        """Where the code of a generation lies, without symbolic links."""
        settings, _, directory = self.of_generation(generation)
        return os.path.realpath(app_directory(settings, directory))

    def prepare(self, generation: int, code: ImportedCode | None = None) -> str:
        """Read the new configuration, or take that of the kept code, and open what is new.

        Returns why it cannot be, or nothing.
        """
        self.announce("reloading")
        try:
            if code is not None:
                change = prepare(self.settings, code.settings, code.environment)
                change = evolve(change, directory=code.directory)
            else:
                change = prepare(self.settings, self.reread() if self.reread is not None else self.settings)
                change = evolve(change, directory=os.path.realpath(logical_directory()))
        except Exception as error:  # nothing in a new configuration may end a master that serves
            self.announce("reloaded")
            return str(error) or type(error).__name__
        self._change = evolve(change, generation=generation)
        return ""

    def commit(self) -> Settings:
        """Put the prepared settings into force, and return them."""
        self.announce("reloaded")
        change, self._change = self._change, None
        if change is None:
            return self.settings
        old, self.settings, self.environment = self.settings, change.settings, change.environment
        self.directory, self.pinned = change.directory, change.pinned
        for listener in change.opened:
            try:
                self.dispatcher.open(listener)
            except BindError as error:  # the new workers serve already: better without one address than not at all
                logger.error("reload: %s", error)
                listener.close()
        dropped = set(old.bind) - set(self.settings.bind)
        for acceptor in [acceptor for acceptor in self.dispatcher.acceptors if acceptor.listener.bind in dropped]:
            self.dispatcher.drain_listener(acceptor)
        if old.policy != self.settings.policy:
            self.dispatcher.set_policy(policies_of(self.settings))
        self.dispatcher.configure(self.settings)
        self.dynamic_listeners.configure(self.settings)
        access.follow(self.settings)
        return self.settings

    def abandon(self) -> None:
        """Close what was prepared: the reload has failed."""
        self.announce("reloaded")
        self.close()

    def close(self) -> None:
        """Close what was prepared and not committed."""
        change, self._change = self._change, None
        if change is not None:
            change.undo()


def prepare(current: Settings, new: Settings, environ: Mapping[str, str] | None = None) -> Change:
    """Open what is new, load what is named, and read the workers' environment if it is not given.

    Raises SettingsError, BindError, with nothing left open.
    """
    for name in (late := changes_that_need_a_restart(current, new)):
        logger.warning("reload: %s has changed; it takes a restart of the master to follow", name)
    # The settings in force are those that act: until the restart, each reload says again what waits for it.
    new = evolve(new, **{name: getattr(current, name) for name in late})
    change = Change(new, pinned(new), environment_of(new) if environ is None else dict(environ))
    check_certificate(new)
    policies_of(new), check_of(new)
    try:
        change.opened.extend(open_all(new, [bind for bind in new.bind if bind not in current.bind]))
    except BaseException:
        change.undo()
        raise
    return change


def pinned(settings: Settings) -> Settings:
    """The settings with --app-dir as what its symbolic links name now, for all workers of a generation."""
    if settings.app_dir is None:
        return settings
    return evolve(settings, app_dir=os.path.realpath(logical_path(settings.app_dir)))


def policies_of(settings: Settings) -> Callable[[], Policy]:
    """What makes the policy of each listener.  Raises SettingsError."""
    policy = settings.policy
    if isinstance(policy, str) and policy in POLICIES:
        return partial(policy_named, policy, random.Random())
    rule = load_callable(settings, "policy", policy) if isinstance(policy, str) else policy
    return partial(UserPolicy, rule=rule, on_error=_once_a_second(logger.error))


def _once_a_second(log: Callable[[str], None]) -> Callable[[str], None]:
    """A policy that fails for each connection must not fill the disk."""
    last = float("-inf")

    def log_sometimes(text: str) -> None:
        nonlocal last
        now = trio.current_time()
        if now - last >= 1.0:
            last = now
            log(text)

    return log_sometimes


def open_all(settings: Settings, binds: Iterable[str]) -> list[Listener]:
    """Open these addresses.  Raises BindError, with nothing left open."""
    with _all_or_none() as opened:
        for bind in binds:
            held = settings.listen_when == "ready"
            opened.extend(open_listeners(parse_bind(bind), settings.backlog, settings.unix_mode, bind, held))
    return opened


@contextmanager
def _all_or_none() -> Iterator[list[Listener]]:
    """A list of listeners that are closed if the block fails."""
    opened: list[Listener] = []
    try:
        yield opened
    except BaseException:
        for listener in opened:
            listener.close()
        raise


def environment_of(settings: Settings) -> dict[str, str]:
    """What the environment file adds.  Raises SettingsError."""
    if settings.env_file is None:
        return {}
    try:
        from dotenv import dotenv_values
    except ImportError:
        raise SettingsError("--env-file needs python-dotenv: pip install 'rrmaster[env]'") from None
    try:
        # Not to wait for a FIFO's writer: the user that the directory belongs to could stop the master with one.
        with open(open_trusted(settings.env_file, os.O_RDONLY | os.O_NONBLOCK)) as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):
                raise SettingsError(
                    f"--env-file: {settings.env_file} is no file, but a pipe; each reload reads it anew"
                )
            values = dotenv_values(stream=file)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--env-file: {settings.env_file} cannot be read: {error}") from None
    for name, value in values.items():
        if not name or "=" in name or "\0" in name or "\0" in (value or ""):
            raise SettingsError(f"--env-file: {settings.env_file}: {name!r} cannot be in an environment")
    return {name: value for name, value in values.items() if value is not None}


def check_certificate(settings: Settings) -> None:
    """Check that the workers will be able to load the certificate.  Raises SettingsError."""
    try:
        tls.context(settings)
    except tls.CannotSpeakTLS as error:
        raise SettingsError(str(error)) from None


def listen(settings: Settings, explicit: bool = True) -> list[Listener]:
    """Open all addresses.  Sockets passed by systemd come first, and replace the default address.

    Raises BindError, with nothing left open.
    """
    passed = inherited_fds(os.environ, os.getpid())
    named = [bind.fd for bind in settings.binds if isinstance(bind, Inherited)] if explicit else []
    with _all_or_none() as opened:
        for fd in sorted(set(passed) - set(named)):
            opened.append(adopt(fd))  # if one fails, the list must hold the others, so that they are closed
        if explicit or not passed:
            opened.extend(open_all(settings, settings.bind))
    return opened
