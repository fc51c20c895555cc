"""The package keeps its order: a folder is a room, imports run one way, and a worker loads no master."""

import ast
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

import rrmaster
from rrmaster.config.settings import Settings

HOUSE = Path(rrmaster.__file__).parent
FILES = sorted(HOUSE.rglob("*.py"))

ORDER = (
    "protocol", "config", "rules", "waiting", "logs", "faults", "verdicts", "events", "dispatch", "processes",
    "parking", "supervision", "status", "control", "admin", "watcher", "master", "api", "service", "cli",
)  # fmt: skip
"""The rooms of the master's process.  A room imports only what stands before it; ``worker`` and ``idle`` are other
processes."""

FRONT = {"__init__", "__main__", "_version", "demo", "asyncio"}
"""Entry points, and the demo: modules outside of the rooms."""

MOST_FILES = 12
"""Files in one folder."""

MOST_LINES = 350
"""Lines of a file, comments and blank ones included.  Each answers one question; a longer one answers two."""

MOST_OF_THE_WIRING = 250
"""Lines of ``master.py``, which only connects what other rooms do."""

MOST_OF_A_FUNCTION = 45

PURE = {
    "rules", "config",
    "protocol/wire", "protocol/uplink", "protocol/template_wire", "protocol/forks/safety", "protocol/proxy_header",
    "protocol/launch", "protocol/parking/lane", "worker/parking/law", "worker/parking/memo",
    "dispatch/load", "dispatch/policies", "dispatch/stall_detector", "events/events", "status/model",
}  # fmt: skip
"""Rooms, and modules in other rooms, that decide and do not act."""


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), str(file))


def name(file: Path) -> str:
    """The name of a module here: ``dispatch/load``, ``worker/serving/on_trio``."""
    return str(file.relative_to(HOUSE).with_suffix(""))


def room(module: str) -> str:
    return module.split("/")[0]


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def statements(node: ast.AST, deep: bool) -> list[ast.stmt]:
    """All statements; without `deep` only those that run when the module is loaded."""
    found = []
    for child in ast.iter_child_nodes(node):
        if is_for_types_only(child):
            continue
        if isinstance(child, ast.stmt):
            found.append(child)
        if deep or not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            found.extend(statements(child, deep))
    return found


def module_named(parts: list[str]) -> str:
    """The file behind a dotted name; a folder stands for its ``__init__``."""
    path = HOUSE.joinpath(*parts)
    return "/".join([*parts, "__init__"] if path.is_dir() else parts)


def imports(file: Path, deep: bool = True) -> tuple[set[str], set[str]]:
    """The imports of a module: modules of this package (``dispatch/load``), and top-level names of others."""
    inside, outside = set(), set()
    modules = {name(other) for other in FILES}
    for node in statements(tree(file), deep):
        if isinstance(node, ast.Import):
            outside.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(str(node.module).split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            folder = list(file.relative_to(HOUSE).parts)[: -node.level]
            base = folder + (node.module.split(".") if node.module else [])
            for alias in node.names:
                child = module_named([*base, alias.name])
                inside.add(child if child in modules else module_named(base))
    return inside - {name(file)}, outside


def by_name(files: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("file", files, ids=name)


def in_room(*rooms: str) -> list[Path]:
    return [file for file in FILES if room(name(file)) in rooms]


worker_files = in_room("worker")
pure_files = [file for file in FILES if name(file) in PURE or room(name(file)) in PURE]


def test_every_file_stands_in_a_room():
    assert {room(name(file)) for file in FILES} == set(ORDER) | FRONT | {"worker", "idle"}


@pytest.mark.parametrize(
    "folder", sorted({file.parent for file in FILES if file.parent != HOUSE}), ids=lambda folder: folder.name
)
def test_a_folder_has_few_files(folder):
    assert len(list(folder.glob("*.py"))) <= MOST_FILES


@by_name(in_room(*ORDER))
def test_imports_run_one_way(file):
    inside, _ = imports(file)
    own = room(name(file))
    below = set(ORDER[: ORDER.index(own)]) | {own}
    assert {room(module) for module in inside} - {"_version"} <= below


@by_name(pure_files)
def test_what_decides_knows_no_trio_no_sockets_and_no_clock(file):
    _, outside = imports(file)
    assert outside.isdisjoint({"trio", "socket", "time", "select", "asyncio", "subprocess", "threading", "fcntl"})


@by_name(in_room("rules"))
def test_rules_do_not_know_the_operating_system(file):
    _, outside = imports(file)
    assert "os" not in outside


@by_name(FILES)
def test_nothing_is_imported_by_its_full_name(file):
    """Only relative imports, or a copy of the package would mix with an installed one."""
    _, outside = imports(file)
    assert "rrmaster" not in outside


@by_name(worker_files)
def test_a_worker_knows_of_the_house_only_what_both_sides_say(file):
    inside, _ = imports(file)
    assert {room(module) for module in inside} <= {"protocol", "worker"}


@by_name(worker_files)
def test_only_a_runtimes_own_module_loads_its_async_library(file):
    _, outside = imports(file, deep=False)
    loaded = outside & {"trio", "anycorn", "asyncio", "uvloop", "uvicorn", "a2wsgi"}
    assert loaded <= LIBRARIES.get(file.stem, set())


LIBRARIES = {
    "on_trio": {"trio"},
    "on_anycorn": {"trio", "anycorn"},
    "anycorn_connection": {"trio", "anycorn"},
    "of_anycorn": {"trio", "anycorn"},
    "of_uvicorn": {"asyncio"},
    "anycorn_calls": {"trio", "anycorn"},
    "anycorn_targets": {"anycorn"},
    "on_asyncio": {"asyncio"},
    "asyncio_worker": {"asyncio"},
    "on_uvicorn": {"asyncio", "uvicorn"},
    "reading": {"asyncio", "uvicorn"},
    "endings_on_trio": {"trio"},
    "httptools_client": {"asyncio", "uvicorn"},
    "h11_client": {"asyncio", "uvicorn"},
    "wsgi": {"asyncio", "a2wsgi"},
    "ports_on_trio": {"trio"},
    "ports_on_asyncio": {"asyncio"},
    "server_on_asyncio": {"asyncio"},
}


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way along the arrows from a module back to itself; empty if there is none."""
    done: set[str] = set()

    def walk(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in done:
            for other in sorted(graph[module]):
                if found := walk(other, [*path, module]):
                    return found
            done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := walk(module, []))), [])


def test_modules_import_each_other_in_no_circle():
    """Also where an import waits in a function: what two modules need of each other belongs below both."""
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []
    assert circle({name(file): imports(file)[0] for file in FILES}) == []


def defaults(file: Path) -> list[tuple[str, object]]:
    """The name and the value of each field and parameter that has a literal default."""
    found: list[tuple[ast.expr | ast.arg, ast.expr | None]] = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.AnnAssign):
            found.append((node.target, node.value))
        elif isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            found += zip(reversed(positional), reversed(node.defaults), strict=False)
            found += zip(node.kwonlyargs, node.kw_defaults, strict=True)
    return [
        (getattr(target, "arg", "") or getattr(target, "id", ""), value.value)
        for target, value in found
        if isinstance(value, ast.Constant)
    ]


@by_name([*worker_files, HOUSE / "protocol" / "launch.py"])
def test_a_worker_repeats_no_default_of_an_option(file):
    """It is told the value at its start; a number of its own would be used whatever the option says."""
    options = {field.name: field.default for field in attrs.fields(Settings)}
    nothing_chosen = (None, False, 0)
    repeated = [name for name, value in defaults(file) if value not in nothing_chosen and options.get(name) == value]
    assert repeated == []


LOADED = "import sys; before = set(sys.modules); import {module}; print(*sorted(set(sys.modules) - before))"


def loaded_by(module: str) -> set[str]:
    """The modules that a new interpreter loads with this one."""
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {sys.path!r}; {LOADED.format(module=module)}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    return set(done.stdout.split())


def our_modules(loaded: set[str]) -> set[str]:
    """The modules of this package among them, as `name` writes them."""
    return {module.removeprefix("rrmaster.").replace(".", "/") for module in loaded if module.startswith("rrmaster.")}


@pytest.mark.parametrize("module", ["rrmaster.worker", "rrmaster.worker.api", "rrmaster.worker.__main__"])
def test_a_worker_loads_no_master_and_no_async_library(module):
    loaded = loaded_by(module)
    ours = our_modules(loaded)
    assert {room(module) for module in ours} <= {"_version", "protocol", "worker"}
    assert not ours & {
        "worker/serving/on_trio",
        "worker/programs/program",
        "worker/programs/run",
    }
    assert loaded.isdisjoint({"trio", "asyncio", "argparse", "subprocess"})


@pytest.mark.parametrize(
    ("module", "libraries"),
    [
        ("rrmaster.worker.programs.program", set()),
        ("rrmaster.worker.programs.run", set()),
        ("rrmaster.worker.programs.ports_on_threads", set()),
        ("rrmaster.worker.programs.ports_on_asyncio", {"asyncio"}),
        ("rrmaster.asyncio", {"asyncio"}),
        ("rrmaster.worker.programs.ports_on_trio", {"trio"}),
    ],
)
def test_a_program_loads_no_master_and_no_other_async_library_than_its_own(module, libraries):
    loaded = loaded_by(module)
    assert loaded & {"trio", "asyncio", "uvloop"} == libraries
    assert {room(module) for module in our_modules(loaded)} <= {"_version", "protocol", "worker", "asyncio"}


def test_the_idle_pool_has_the_interpreter_and_the_standard_library_alone():
    loaded = loaded_by("rrmaster.idle.pool")
    assert our_modules(loaded) <= {
        "__init__", "_version", "protocol", "protocol/parking", "protocol/parking/lane",
        "idle", "idle/pool", "protocol/parking/admission", "idle/known", "idle/places",
    }  # fmt: skip
    assert {module.split(".")[0] for module in loaded} <= set(sys.stdlib_module_names) | {"rrmaster"}
    assert loaded.isdisjoint({"asyncio", "json", "subprocess", "threading", "logging", "typing"})


def test_the_front_door_loads_nothing_before_it_is_asked():
    loaded = {m for m in loaded_by("rrmaster") if m.startswith("rrmaster") or m in ("trio", "attrs")}
    assert loaded == {"rrmaster", "rrmaster._version"}


def test_every_public_name_is_there():
    for public in rrmaster.__all__:
        assert getattr(rrmaster, public) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        rrmaster.nonsense  # noqa: B018  # the asking is the test


@by_name([file for file in FILES if file.stem not in ("__main__",)])
def test_the_first_line_of_a_module_says_what_it_is_for(file):
    first = (ast.get_docstring(tree(file)) or "").split("\n\n")[0]
    assert first.endswith((".", "?", ":", "::"))
    assert first.count("\n") < 3


@by_name(FILES)
def test_no_file_is_a_crowd(file):
    assert len(file.read_text().splitlines()) <= MOST_LINES


WRITTEN_FROM_OUTSIDE = {
    # The count of a handoff: two method calls for each connection are saved.
    "dispatch/load", "dispatch/policies",
    # The count of a request: two method calls for each request are saved.
    "worker/serving/asgi",
    # A listener, before it has an owner.
    "dispatch/listeners",
    # Objects of the standard library and of other libraries: loggers, contexts, cancel scopes, configurations.
    "logs/setup", "protocol/tls", "processes/process", "demo", "worker/serving/anycorn_connection",
    "worker/serving/on_anycorn", "worker/serving/on_trio", "worker/serving/on_uvicorn", "admin/server",
    "cli/completion", "worker/serving/http1/endings", "worker/serving/http1/anycorn_targets",
    "worker/serving/http1/httptools_client",
    # The interpreter's own copy of the environment, while an application is imported; numpy's generators after a fork;
    # logging's listeners before one.
    "worker/preload/taken/environment", "worker/preload/taken/numpys", "worker/preload/anew/listeners",
}  # fmt: skip
"""Modules that assign attributes of an object from outside, and why they may.  Elsewhere an object alone writes its
state: after its construction by one ``configure``, or by methods that say what happened."""


def foreign_writes(file: Path) -> list[str]:
    """The attributes of other objects that a module assigns."""
    found = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                attributes = [part for part in parts if isinstance(part, ast.Attribute)]
                found += [ast.unparse(part) for part in attributes if ast.unparse(part.value) not in ("self", "cls")]
    return found


@by_name([file for file in FILES if name(file) not in WRITTEN_FROM_OUTSIDE])
def test_an_object_alone_writes_its_state(file):
    assert foreign_writes(file) == []


def test_one_object_owns_the_goal_of_the_fleet():
    writers = {name(file) for file in FILES if "_goal = " in file.read_text() or ".goal = " in file.read_text()}
    assert writers == {"supervision/reload"}


def test_the_master_only_wires():
    assert len((HOUSE / "master.py").read_text().splitlines()) <= MOST_OF_THE_WIRING


@by_name(FILES)
def test_no_function_is_long(file):
    functions = [n for n in ast.walk(tree(file)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = {function.name: function.end_lineno - function.lineno + 1 for function in functions}
    assert {name: length for name, length in lengths.items() if length >= MOST_OF_A_FUNCTION} == {}


def test_there_is_no_module_without_a_question():
    forbidden = {"utils", "util", "helpers", "base", "types", "errors", "exceptions", "common", "misc", "manager"}
    assert {file.stem for file in FILES}.isdisjoint(forbidden)
