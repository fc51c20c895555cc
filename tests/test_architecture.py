"""The house keeps its order: imports run upwards in the map, and a worker loads no master."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rrmaster

HOUSE = Path(rrmaster.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

MOST_LINES = 450
"""Lines of a room that are neither blank nor comments.  300 is a crowd; more than this is two rooms."""

MOST_OF_A_FUNCTION = 45

FRONT = {"__init__", "__main__", "demo", "asyncio"}
"""The front doors, the way to run it, and what is served to try it: no rooms, so not on the map."""


def sections() -> list[list[str]]:
    """The rooms on the map, by storey: laws, hands, worker/."""
    assert rrmaster.__doc__ is not None
    _, table, _ = re.split(r"^=+  =+$", rrmaster.__doc__, flags=re.MULTILINE)
    storeys = re.split(r"^-+  -+$", table, flags=re.MULTILINE)
    return [re.findall(r"^(\w+/?) ", storey, flags=re.MULTILINE) for storey in storeys]


LAWS, HANDS, WORKER = sections()
ROOMS = LAWS + HANDS


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def name(file: Path) -> str:
    """``balance``, ``worker/on_trio``."""
    return str(file.relative_to(HOUSE).with_suffix(""))


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST, deep: bool) -> list[ast.stmt]:
    """All statements; without `deep` those alone that run when the module is loaded."""
    found = []
    for child in ast.iter_child_nodes(node):
        if is_for_types_only(child):
            continue
        if isinstance(child, ast.stmt):
            found.append(child)
        if deep or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.extend(statements(child, deep))
    return found


def imports(file: Path, deep: bool = True) -> tuple[set[str], set[str]]:
    """What a module imports: rooms of this house (``wire``, ``worker``), and names of top-level modules outside."""
    inside, outside = set(), set()
    depth = len(file.relative_to(HOUSE).parts)
    for node in statements(tree(file), deep):
        if isinstance(node, ast.Import):
            outside.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom) and node.level == depth:
            inside.update([node.module.split(".")[0]] if node.module else (alias.name for alias in node.names))
        elif isinstance(node, ast.ImportFrom):
            inside.add(file.parent.name)
    return inside & (set(ROOMS) | FRONT | {"worker"}), outside


def by_name(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=name)


room_files = [HOUSE / f"{room}.py" for room in ROOMS]
worker_files = sorted((HOUSE / "worker").glob("*.py"))


def test_the_map_shows_every_room_and_no_other():
    assert WORKER == ["worker/"]
    assert len(LAWS) >= 6
    assert {file.stem for file in HOUSE.glob("*.py")} == set(ROOMS) | FRONT
    assert {path.name for path in HOUSE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {"worker"}


@by_name(room_files)
def test_imports_run_upwards_in_the_map(file):
    above = set(ROOMS[: ROOMS.index(file.stem)])
    inside, _ = imports(file)
    assert inside - {"__init__"} <= above


@by_name([HOUSE / f"{room}.py" for room in LAWS])
def test_laws_know_no_trio_no_sockets_and_no_clock(file):
    _, outside = imports(file)
    assert outside.isdisjoint({"trio", "socket", "os", "time", "select", "asyncio", "subprocess", "threading", "fcntl"})


@by_name(FILES)
def test_nothing_is_imported_by_its_full_name(file):
    """Relative imports alone, or a copy beside an installed one would mix with it."""
    _, outside = imports(file)
    assert "rrmaster" not in outside


@by_name(worker_files)
def test_a_worker_knows_of_the_house_only_what_both_sides_say(file):
    inside, _ = imports(file)
    assert inside <= {"wire", "launch", "births", "forkable", "proxied", "channel", "tls", "worker"}


@by_name(worker_files)
def test_only_a_runtimes_own_room_loads_its_async_library(file):
    _, outside = imports(file, deep=False)
    loaded = outside & {"trio", "anycorn", "asyncio", "uvloop", "uvicorn", "a2wsgi"}
    assert loaded <= LIBRARIES.get(file.stem, set())


LIBRARIES = {
    "on_trio": {"trio"},
    "on_anycorn": {"trio", "anycorn"},
    "on_asyncio": {"asyncio"},
    "on_uvicorn": {"asyncio", "uvicorn"},
    "wsgi": {"asyncio", "a2wsgi"},
    "ports_on_trio": {"trio"},
    "ports_on_asyncio": {"asyncio"},
}


LOADED = "import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"


def loaded_by(module: str) -> set[str]:
    """What a fresh interpreter loads with it."""
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {LOADED.format(module=module)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["rrmaster.worker", "rrmaster.worker.__main__"])
def test_a_worker_loads_no_master_and_no_async_library(module):
    loaded = loaded_by(module)
    assert {m for m in loaded if m.startswith("rrmaster")} <= {
        "rrmaster", "rrmaster.wire", "rrmaster.launch", "rrmaster.channel", "rrmaster.worker",
        "rrmaster.worker.__main__", "rrmaster.worker.loading", "rrmaster.worker.runtimes", "rrmaster.worker.speech",
        "rrmaster.worker.life", "rrmaster.worker.hooks",
    }  # fmt: skip
    assert loaded.isdisjoint({"trio", "asyncio", "argparse", "subprocess"})


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("rrmaster.worker.program", set()),
        ("rrmaster.worker.ports_on_threads", set()),
        ("rrmaster.worker.ports_on_asyncio", {"asyncio"}),
        ("rrmaster.asyncio", {"asyncio"}),
        ("rrmaster.worker.ports_on_trio", {"trio"}),
    ],
)
def test_a_program_loads_no_master_and_no_other_async_library_than_its_own(module, libraries):
    loaded = loaded_by(module)
    assert loaded & {"trio", "asyncio", "uvloop"} == libraries
    assert loaded.isdisjoint({f"rrmaster.{room}" for room in HANDS if room not in ("channel", "tls")})


def test_the_front_door_loads_nothing_before_it_is_asked():
    assert {m for m in loaded_by("rrmaster") if m.startswith("rrmaster") or m in ("trio", "attrs")} == {"rrmaster"}


def test_every_public_name_is_there():
    for public in rrmaster.__all__:
        assert getattr(rrmaster, public) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        rrmaster.nonsense  # noqa: B018  # the asking is the test


@by_name([file for file in FILES if file.stem not in ("__main__",)])
def test_the_first_line_of_a_room_says_what_it_is_for(file):
    first = (ast.get_docstring(tree(file)) or "").split("\n\n")[0]
    assert first.endswith((".", "?", ":", "::"))
    assert first.count("\n") < 3


@by_name(FILES)
def test_no_room_is_a_crowd(file):
    lines = [line for line in file.read_text().splitlines() if line.strip() and not line.strip().startswith("#")]
    assert len(lines) <= MOST_LINES


@by_name(FILES)
def test_no_function_is_long(file):
    functions = [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length >= MOST_OF_A_FUNCTION} == {}


def test_there_is_no_room_without_a_question():
    forbidden = {"utils", "util", "helpers", "base", "types", "errors", "exceptions", "common", "misc", "manager"}
    assert {file.stem for file in FILES}.isdisjoint(forbidden)
