"""What an import takes for its process alone is noticed where the application takes it, and there alone."""

from __future__ import annotations

import importlib
import logging
import multiprocessing.managers
import os
import random
import sys
import types
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rrmaster.worker.preload.taken.callers import Callers, Owner
from rrmaster.worker.preload.watch import ImportWatch
from tests import forked
from tests.launches import a_launch

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
"""The runner has threads, and the child does nothing but answer."""

Import = Callable[..., ImportWatch]


@pytest.fixture
def imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Import]:
    """Import an application, and perhaps a library that is installed, as a template does."""
    name = f"shop_{uuid.uuid4().hex}"
    installed = tmp_path / "site-packages"
    installed.mkdir()
    for directory in (tmp_path, installed):
        monkeypatch.syspath_prepend(directory)
    loaded = set(sys.modules)

    def import_(code: str, library: str = "") -> ImportWatch:
        (installed / "a_library.py").write_text(library)
        (tmp_path / f"{name}.py").write_text(code)
        watch = ImportWatch(a_launch(f"{name}:app", app_dir=str(tmp_path)))
        with watch.watched():
            importlib.import_module(name)
        return watch

    yield import_
    for module in set(sys.modules) - loaded:
        if "rrmaster" not in module:
            del sys.modules[module]


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import os\nOWNER = f'host:{os.getpid()}'", "its process id (SHOP:2)"),
        ("from os import getpid\n\nOWNER = getpid()", "its process id (SHOP:3)"),
        ("import os\nOWNER = os.getpgrp()", "its process id (SHOP:2)"),
        ("import multiprocessing\nOWNER = multiprocessing.current_process().pid", "its process id (SHOP:2)"),
        ("import threading\nOWNER = threading.current_thread().native_id", "its process id (SHOP:2)"),
        ("import uuid\nNODE = uuid.uuid4().hex", "a random value (SHOP:2)"),
        ("import uuid\nNODE = uuid.uuid1()", "a random value (SHOP:2)"),
        ("import secrets\nNONCE = secrets.token_hex()", "a random value (SHOP:2)"),
        ("import ssl\nNONCE = ssl.RAND_bytes(4)", "a random value (SHOP:2)"),
        ("import os\nNONCE = os.urandom(4)", "a random value (SHOP:2)"),
        ("import random\nNONCE = random.SystemRandom().random()", "a random value (SHOP:2)"),
        ("import random\nMACHINE = random.randint(0, 1023)", "a random number (SHOP:2)"),
        ("from random import random\nMACHINE = random()", "a random number (SHOP:2)"),
        ("import random\nMACHINE = random.Random().choice('abc')", "a random number (SHOP:2)"),
        ("with open('/dev/urandom', 'rb') as file: NODE = file.read(4)", "a random value (SHOP:1)"),
        ("with open('/proc/sys/kernel/random/uuid') as file: NODE = file.read()", "a random value (SHOP:1)"),
        ("import os\nFILE = os.open('/dev/random', os.O_RDONLY)", "a random value (SHOP:2)"),
        ("import os\nOWNER = os.readlink('/proc/self')", "its process id (SHOP:2)"),
        ("import os\nOWNER = os.path.realpath(b'/proc/self')", "its process id (SHOP:2)"),
        ("import pathlib\nOWNER = pathlib.Path('/proc/self/stat').read_text()", "its process id (SHOP:2)"),
        ("import os\nclass Lock:\n    def __init__(self): os.getpid()\nLOCK = Lock()", "its process id (SHOP:3)"),
    ],
)  # fmt: skip
def test_what_the_application_takes_for_its_process_is_said_with_its_place(
    imported: Import, code: str, what: str
) -> None:
    (found,) = imported(code).taken()
    assert found == what.replace("SHOP", found.partition("(")[2].partition(":")[0])
    assert "shop_" in found
    assert "/" not in found, "the place is told from the application's directory on"


@pytest.mark.parametrize(
    "call",
    [
        "os.environ.get('SHOP_KEY', secrets.token_hex())",
        "os.getenv('SHOP_KEY', a_library.name())",
        "os.getenv('SHOP_KEY', f'{uuid.uuid4()}-é')",
        "env('SHOP_KEY', default=secrets.token_hex())",
        "os.environ.get(\n    'SHOP_KEY',\n    made(),\n)",
    ],
)
def test_a_default_that_is_not_used_is_not_taken(imported: Import, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    code = f"""
import os, secrets, uuid
import a_library
def made(): return secrets.token_hex()
def env(name, default): return os.environ.get(name, default)
KEY = {call}
"""
    monkeypatch.setenv("SHOP_KEY", "from the environment")
    assert imported(code, LIBRARY).taken() == ()


@pytest.mark.parametrize(
    "call", ["print('up', os.getpid())", "print(f'up {os.getpid()}')", "logging.getLogger().info('%d', os.getpid())"]
)
def test_what_is_only_said_is_not_taken(imported: Import, call: str) -> None:
    assert imported(f"import os, logging\n{call}").taken() == ()


def test_a_look_at_the_source_asks_for_no_variable(imported: Import) -> None:
    watch = imported("import os\nOWNER = os.getpid()\ndef hook(): return os.environ.get('RRMASTER_WORKER_SLOT', '0')")
    assert watch.taken() != ()
    assert watch.asked() == ()


def test_what_is_said_and_kept_is_taken(imported: Import) -> None:
    (found,) = imported("import os\nprint(os.getpid()); OWNER = os.getpid()").taken()
    assert found.startswith("its process id")


@pytest.mark.parametrize("call", ["os.environ.get('SHOP_KEY', secrets.token_hex())", "secrets.token_hex()"])
def test_a_default_that_is_used_is_taken(imported: Import, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_OTHER", "1")
    monkeypatch.delenv("SHOP_KEY", raising=False)
    code = f"import os, secrets\nOTHER = os.environ.get('SHOP_OTHER', '')\nKEY = {call}"
    (found,) = imported(code).taken()
    assert found.endswith(".py:3)")


LIBRARY = """
import os, random, uuid
PID, NODE, JITTER = os.getpid(), uuid.uuid4(), random.random()
def remember(): return os.getpid()
def name(): return uuid.uuid4().hex
def jitter(): return random.random()
"""


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("import a_library", "a library takes it for itself while it is imported"),
        ("import a_library\na_library.remember()", "it remembers its process id to notice a fork"),
        ("import a_library\nDELAY = a_library.jitter()", "a number that a library draws is no identity"),
        ("import logging\nlogging.getLogger('shop').error('up')", "a line of the log has the process id"),
        ("import tempfile\nwith tempfile.TemporaryFile(): pass", "the name of a temporary file"),
        ("import random\nrandom.seed(7)\nNUMBERS = random.random(), random.randint(1, 9)", "seeded on purpose"),
        ("import random\nof = random.Random(7)\nNUMBERS = of.random(), of.choice('abc')", "seeded on purpose"),
        ("import random\nof = random.Random(b'x')\nNUMBERS = of.random()", "seeded on purpose"),
        ("import os, uuid, random\ndef later(): return os.getpid(), uuid.uuid4(), random.random()", "asked for later"),
        ("import random\nMORE = random.Random()", "it is seeded anew"),
        ("with open('/proc/self/cgroup') as file: LIMIT = file.read()", "a limit is no identity"),
        ("with open(1, 'w', closefd=False) as file: pass", "an open descriptor"),
    ],
)
def test_what_keeps_no_application_from_being_forked(imported: Import, code: str, why: str) -> None:
    assert imported(code, LIBRARY).taken() == (), why


def test_a_name_that_a_library_makes_for_the_application_is_the_applications(imported: Import) -> None:
    (found,) = imported("import a_library\n\nCHANNEL = a_library.name()", LIBRARY).taken()
    assert found.startswith("a random value (shop_")
    assert found.endswith(".py:3)")


def test_an_application_that_is_installed_among_libraries_is_no_library(tmp_path: Path) -> None:
    installed = str(tmp_path / "site-packages" / "shop" / "ids.py")
    assert Callers("shop.main:app", "/srv").owner_of(installed, "shop.ids") is Owner.APPLICATION
    assert Callers("other:app", "/srv").owner_of(installed, "shop.ids") is Owner.LIBRARY
    assert Callers("main.py:app", "/srv").owner_of("/srv/ids.py", "ids") is Owner.APPLICATION
    assert Callers("other:app", "/srv").owner_of("/srv/.venv/lib/python3.11/site-packages/a.py", "a") is Owner.LIBRARY


def the_interpreters() -> list[object]:
    """What is replaced for the time of an import."""
    own: list[object] = [
        os.getpid,
        os.urandom,
        open,
        random.Random.getstate,
        random.setstate,
        random.random,
        random.seed,
        random.Random.seed,
        random.Random.random,
    ]
    return [*own, os.environ._data]  # type: ignore[attr-defined]


def test_the_interpreter_is_as_before_after_the_import(imported: Import) -> None:
    before = the_interpreters()
    code = "from os import getpid\nimport os\nclass Has:\n    own = os.getpid\nHAS = Has()"
    imported(code)
    assert all(one is other for one, other in zip(before, the_interpreters(), strict=True))
    assert "random" not in vars(random.Random)
    (shop,) = (module for name, module in sys.modules.items() if name.startswith("shop_"))
    assert shop.getpid is os.getpid, "also in the application"
    assert shop.HAS.own() == os.getpid(), "what stays behind is no method, and works"


def test_a_failed_import_leaves_the_interpreter_as_before(imported: Import) -> None:
    before = the_interpreters()
    with pytest.raises(ZeroDivisionError):
        imported("1 / 0")
    assert all(one is other for one, other in zip(before, the_interpreters(), strict=True))


class Process:
    """As psutil's, which is not installed here."""

    def __init__(self, pid: int | None = None) -> None:
        self.pid = os.getpid() if pid is None else pid


def test_what_stands_for_the_importing_process_stands_for_the_worker_in_a_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "psutil", types.SimpleNamespace(Process=Process))  # type: ignore[arg-type]
    watch = ImportWatch(a_launch())
    with watch.watched():
        own, other = Process(), Process(1)
    ours, its = os.pipe()
    if (child := os.fork()) == 0:
        watch.begin_worker(("a worker",))
        os.write(its, b"%d %d %d" % (own.pid == os.getpid(), own.pid == os.getppid(), other.pid))
        os._exit(0)
    os.close(its)
    with open(ours, "rb") as told:
        assert told.read() == b"1 0 1"
    os.waitpid(child, 0)


def test_each_worker_writes_its_own_process_id_into_its_log() -> None:
    watch = ImportWatch(a_launch())
    with watch.watched():
        kept = logging.makeLogRecord({"process": logging.LogRecord("shop", 20, "", 0, "", (), None).process})

    def answer() -> bytes:
        watch.begin_worker(("a worker",))
        new = logging.LogRecord("shop", 20, "", 0, "", (), None)
        return f"{new.process == os.getpid()} {kept.process == os.getppid()}".encode()

    assert forked.in_two_workers(answer) == (b"True True", b"True True"), "a record that is kept tells of the template"


def test_all_forked_workers_have_the_key_of_multiprocessing_that_their_import_has_used() -> None:
    """A manager that the import makes keeps that key, and the children of a worker ask it with the worker's."""
    watch = ImportWatch(a_launch())
    with watch.watched():
        manager = multiprocessing.managers.BaseManager()

    def answer() -> bytes:
        watch.begin_worker(("a worker",))
        own = multiprocessing.current_process().authkey
        return f"{own == manager._authkey} {own.hex()}".encode()  # type: ignore[attr-defined]

    one, other = forked.in_two_workers(answer)
    assert one.startswith(b"True ")
    assert one == other
