"""A page of the documentation, carried out as by a reader: from top to bottom, in an empty directory.

===========  ==========================================================================================================
a block of   is
===========  ==========================================================================================================
python       a file, if its first line has a name (``# shop.py``); else a program, which ends by itself with status 0
             within `PATIENCE`, or serves, if the comment ``<!-- serves -->`` stands before the block
console      commands for a shell.  A server must become ready, and is ended by TERM, with status 0, when the next
             one starts or the page ends; any other command ends by itself.  Its status is 0, or the next command is
             ``echo $?``.  The lines below a command must be in its output, or in the log of a server.  A command that
             cannot run here is only parsed, by rrmaster's own parser, if a comment says so and why
             (``<!-- parsed: it needs a certificate -->``)
toml         a file, or a part of one, which rrmaster's settings must accept
json         JSON
dockerfile   its CMD must be accepted by rrmaster's command line
text         not run
===========  ==========================================================================================================

Lines of output are compared without their numbers (times and pids differ), other lines may stand between them, and
``...`` matches anything.  Port 8000 stands for a free port.  A reload does not wait for the usual seconds.  ``pip
install`` is not run; the extras that it names must exist.  No virtual environment is made or
activated.  A verb that follows until Ctrl-C (`rrmaster events`) is only parsed.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import trio
from attrs import Factory, define

from rrmaster.cli.arguments import VERBS, Parser, UsageError
from rrmaster.cli.arguments import parse_arguments as parse_options
from rrmaster.cli.commands import COMMANDS
from rrmaster.config.sources import from_table, read
from tests.pages import ROOT, Block, blocks
from tests.whole.harness import PATIENCE, Running

HASTE = {"RRMASTER_PROBATION": "100ms", "RRMASTER_SOAK": "100ms", "WEB_CONCURRENCY": "2"}

NC = """
import socket, sys
with socket.socket(socket.AF_UNIX) as there:
    there.connect(sys.argv[2])
    there.sendall(sys.stdin.buffer.read())
    there.shutdown(socket.SHUT_WR)
    sys.stdout.buffer.write(b"".join(iter(lambda: there.recv(4096), b"")))
"""
"""`nc -U PATH`, for machines without it."""

FOREIGN = {"sudo", "systemctl", "docker", "podman", "apt", "apt-get", "git", "kubectl", "nginx"}
"""Commands that need another machine: a block with one of them is text."""


class Wrong(AssertionError):
    """A statement of the page is wrong."""


@define(eq=False)
class Story:
    """The state of a page that is carried out."""

    directory: Path
    nursery: trio.Nursery
    port: int
    environ: dict[str, str]
    server: Running | None = None
    status: int = 0
    """Of the last command."""
    commands: list[str] = Factory(list)
    told_to_end: bool = False
    """The page has ended the server itself; a signal after that may reach a process that has no handler left."""

    async def tell(self, page: str, text: str) -> None:
        """Carry out a page; then see that it has used each file that it has written."""
        for block in blocks(text, page):
            try:
                await self._do(block)
            except Wrong as wrong:
                raise Wrong(f"{block}: {wrong}") from None
        await self._stop()
        if unused := sorted(self._unused()):
            raise Wrong(f"{page}: nothing uses {', '.join(unused)}")

    def _unused(self) -> set[str]:
        """Python files that no command and no program has imported or run."""
        loaded = {path.name.partition(".")[0] for path in self.directory.rglob("__pycache__/*.pyc")}
        files = {path: path.read_text() for path in self.directory.rglob("*.py")}
        return {
            path.name
            for path in files
            if path.stem not in loaded
            and not any(path.name in text for text in self.commands)
            and not any(f'"{path.name}"' in text for text in files.values())
        }

    async def _do(self, block: Block) -> None:
        text = self._here(block.text)
        match block.language:
            case "python":
                await self._python(block, text)
            case "console" if block.mark == "parsed":
                for command, _ in block.commands():
                    _parsed(_words(command))
            case "console":
                await self._console(block)
            case "toml":
                self._toml(block, text)
            case "json":
                _json(text)
            case "dockerfile":
                _dockerfile(text)
            case "text":
                pass
            case other:
                raise Wrong(f"nothing is known of blocks of {other or 'no language'}; what cannot be run is text")

    def _here(self, text: str) -> str:
        """Its port, its directory."""
        return re.sub(r"\b8000\b", str(self.port), text).replace("unix:/run/", f"unix:{self.directory}/")

    # --- python, toml, dockerfile

    async def _python(self, block: Block, text: str) -> None:
        file = self.directory / (block.file or f"block_{block.line}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        try:
            compile(text, str(file), "exec")
        except SyntaxError as error:
            raise Wrong(f"is no Python: {error}") from None
        if block.file is None:
            command = f"python {file.name}"
            self.commands.append(command)
            await (self._serve(command, []) if block.mark == "serves" else self._run(command, []))

    def _toml(self, block: Block, text: str) -> None:
        try:
            table = tomllib.loads(text)
            if "tool" in table:
                table = table["tool"]["rrmaster"]
            read([from_table({"application": "shop:app"} | table, str(block))])
        except Exception as error:
            raise Wrong(f"{type(error).__name__}: {error}") from None
        if block.file is not None:
            (self.directory / block.file).write_text(text)

    # --- console

    async def _console(self, block: Block) -> None:
        typed = [
            (part.strip(), [self._here(line) for line in output])
            for command, output in block.commands()
            for part in self._here(command).split(" && ")
        ]
        for (command, lines), (following, _) in pairwise([*typed, ("", [])]):
            if command == "echo $?":
                self._expect_lines([str(self.status)], lines, f"the status was {self.status},")
                continue
            self.commands.append(command)
            may_fail = following == "echo $?"
            await self._command(command, lines, may_fail)

    async def _command(self, command: str, lines: list[str], may_fail: bool) -> None:
        words = _words(command)
        self.status = 0
        if not words:
            return
        if words[0] in FOREIGN:
            raise Wrong(f"`{words[0]}` is not to be had in a test: make the block text")
        if words[0] == "pip":
            _installable(words)
        elif _serves(words) and not may_fail:
            _understood(words[1:])
            await self._serve(command, lines)
        elif words[0] == "rrmaster" and _follows(words):
            _parsed(words)
        elif words[:3] == ["python", "-m", "pytest"] and len(words) == 3:
            pass  # the tests that run now
        elif words[:3] == ["python3", "-m", "venv"] or words[0] == ".":
            pass  # a virtual environment: the test has its own
        else:
            self.told_to_end |= bool(re.match(r"rrmaster stop|kill -TERM", command))
            await self._run(command, lines, may_fail)

    async def _ask(self, command: str) -> bytes:
        done = await trio.run_process(
            ["bash", "-c", command], capture_stdout=True, capture_stderr=True, check=False, env=self.environ
        )
        return bytes(done.stdout)

    async def _run(self, command: str, lines: list[str], may_fail: bool = False) -> None:
        """Run a command that ends."""
        with trio.move_on_after(PATIENCE):
            done = await trio.run_process(
                ["bash", "-c", command],
                stdin=subprocess.DEVNULL,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
                cwd=self.directory,
                env=self.environ,
            )
            self.status = done.returncode
            output = done.stdout.decode()
            if self.status and not may_fail:
                raise Wrong(f"`{command}` has ended with status {self.status}:\n{output}")
            self._expect_lines(output.splitlines(), lines, f"`{command}` has said:\n{output}\nand")
            return
        raise Wrong(f"`{command}` has not ended after {PATIENCE:g} s")

    def _expect_lines(self, said: list[str], lines: list[str], what: str) -> None:
        rest = iter(said)
        for line in lines:
            if line.strip() not in ("", "...") and not any(_like(line, other) for other in rest):
                raise Wrong(f"{what} not, or not in this order: {line!r}")

    # --- servers

    async def _serve(self, command: str, lines: list[str]) -> None:
        await self._stop()
        process = await trio.lowlevel.open_process(
            ["bash", "-c", f"exec {command}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            cwd=self.directory,
            env=self.environ,
        )
        self.server, self.told_to_end = Running(process), False
        self.nursery.start_soon(self.server.read)
        with trio.move_on_after(PATIENCE):
            if await self._ready(command, lines):
                return
        raise Wrong(f"`{command}` does not serve, or does not say {lines}; it has said:\n{self.server.text}")

    async def _ready(self, command: str, lines: list[str]) -> bool:
        """Wait until the server serves and has logged these lines; False if it has ended."""
        server, ready = self.server, False
        assert server is not None
        patterns = [r"ready: \d+ of \d+ workers serve", *map(_pattern, lines)]
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                await server.process.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            if command.startswith("rrmaster"):
                await server.until(lambda: all(re.search(p, server.text, re.MULTILINE) for p in patterns))
            else:
                await self._answers()
            ready = True
            nursery.cancel_scope.cancel()
        return ready

    async def _answers(self) -> None:
        """Whether a program serves, asked with a verb: its log cannot be read."""
        while b"serving" not in await self._ask("rrmaster workers"):
            pass  # the verb takes a while: no other wait is needed

    async def _stop(self) -> None:
        """End the server as with Ctrl-C; its status must be 0."""
        server, self.server = self.server, None
        if server is None:
            return
        if not self.told_to_end and server.process.poll() is None:
            server.process.terminate()
        with trio.move_on_after(PATIENCE):
            status = await server.process.wait()
            if status:
                raise Wrong(f"a server has ended with status {status}:\n{server.text}")
            return
        raise Wrong(f"a server does not end:\n{server.text}")

    async def kill(self) -> None:
        """Kill the server, whatever went wrong; workers end with their master."""
        if self.server is not None:
            self.server.process.kill()
            await self.server.process.wait()


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError as error:
        raise Wrong(f"`{command}`: {error}") from None


def _pattern(line: str) -> str:
    """A pattern for this line, whatever its numbers."""
    parts = (re.escape(part) for part in re.split(r"\.\.\.", " ".join(line.split())))
    return re.sub(r"\d+", r"\\d+", ".*".join(parts).replace(r"\ ", r"\s+"))


def _like(line: str, other: str) -> bool:
    return re.fullmatch(rf"\s*{_pattern(line)}\s*", other) is not None


def _installable(words: list[str]) -> None:
    """See that the extras in a ``pip install`` exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for word in words[2:]:
        wanted = re.fullmatch(r"(?:\.|rrmaster)\[([\w,-]+)\]", word)
        for extra in wanted[1].split(",") if wanted else ():
            if extra not in project["optional-dependencies"]:
                raise Wrong(f"there is no extra {extra!r}")


def _parsed(words: list[str]) -> None:
    """See that one of the commands is rrmaster's and has valid arguments."""
    if words[:1] == ["pip"]:
        return _installable(words)
    if words[:1] != ["rrmaster"]:
        raise Wrong(f"`{shlex.join(words)}` is none of ours: make the block text")
    if _serves(words):
        _understood(words[1:])
    elif words[1] in COMMANDS:
        _verb_understood(words[1], words[2:])
    elif words[1] in VERBS:
        _understood(words[2:])
    return None


def _understood(words: list[str]) -> None:
    """Parse a command line of rrmaster."""
    try:
        mistakes = getattr(parse_options(words), "unknown", [])
    except UsageError as error:
        mistakes = [error]
    if mistakes:
        raise Wrong(f"rrmaster {shlex.join(words)}: {mistakes[0]}")


def _verb_understood(verb: str, words: list[str]) -> None:
    parser = Parser(prog=verb)
    COMMANDS[verb].arguments(parser)
    for option in ("--name", "--control"):
        parser.add_argument(option)
    try:
        parser.parse_args(words)
    except UsageError as error:
        raise Wrong(f"rrmaster {verb} {shlex.join(words)}: {error}") from None


def _serves(words: list[str]) -> bool:
    return words[0] == "rrmaster" and (len(words) == 1 or words[1] not in (*VERBS, "--help", "--version"))


def _follows(words: list[str]) -> bool:
    return words[1] in ("top", "events") or (words[1] == "logs" and "-f" in words)


def _json(text: str) -> None:
    try:
        json.loads(text)
    except ValueError as error:
        raise Wrong(f"is no JSON: {error}") from None


def _dockerfile(text: str) -> None:
    started = re.findall(r"^(?:CMD|ENTRYPOINT) (\[.*\])$", text, re.MULTILINE)
    if not started:
        raise Wrong("nothing is started, or not in the form of a list")
    for words in map(json.loads, started):
        if words[0] == "rrmaster":
            _understood(words[1:])


def free_port() -> int:
    """A port that the kernel has just given out and taken back.  It gives them out in turn, so this one stays free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@asynccontextmanager
async def a_story(directory: Path) -> AsyncIterator[Story]:
    """An empty directory in which `rrmaster` and `python` are this test's, and in which verbs see no other master."""
    programs, run = directory / ".bin", directory / ".run"
    programs.mkdir()
    (run / "rrmaster").mkdir(parents=True, mode=0o700)
    run.chmod(0o700)
    for called, command in (("python", ""), ("rrmaster", "-m rrmaster"), ("nc", f"-c {shlex.quote(NC)}")):
        (programs / called).write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {command} "$@"\n')
        (programs / called).chmod(0o755)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RRMASTER_", "PYTHON", "PYTEST"))}
    port = free_port()
    environ = kept | HASTE | {
        "RRMASTER_BIND": f"127.0.0.1:{port}",
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}:.",
        # Named, so that no verb ever searches for a master and finds that of another test.
        "RRMASTER_CONTROL": str(run / "rrmaster" / "default.sock"),
        "XDG_RUNTIME_DIR": str(run),
        "COLUMNS": "132",
    }  # fmt: skip
    try:
        async with trio.open_nursery() as nursery:
            story = Story(directory, nursery, port, environ)
            try:
                yield story
            finally:
                with trio.CancelScope(shield=True):
                    await story.kill()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        wrong, other = group.split(Wrong)
        raise wrong.exceptions[0] if wrong is not None and other is None else group from None
