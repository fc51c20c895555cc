"""What must pass before a change lands, and how a release is built.

``nox`` runs all sessions, ``nox --list`` names them.  ``.ci/run`` runs them with one Python, and
``.github/workflows/ci.yml`` with each that ``pyproject.toml`` lists: the commands are here alone.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "venv"

ROOT = Path(__file__).resolve().parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
"""The versions that the classifiers name."""


def requirements(extra: str) -> list[str]:
    """What an extra installs, without the package itself."""
    return list(PROJECT["project"]["optional-dependencies"][extra])


def readme_command(mark: str) -> str:
    """The ``pip install ... && ...`` line of the README's block with this mark, as it stands there."""
    block = re.search(rf"<!-- {mark} -->\n```console\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    line = re.search(r"^pip .*$", block[1], re.M) if block else None
    if line is None:
        raise LookupError(f"README.md has no command under <!-- {mark} -->")
    return line[0]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The README's test command.  Arguments after ``--`` go to pytest."""
    command = " ".join([readme_command("test"), *map(shlex.quote, session.posargs)])
    session.run("bash", "-c", command, external=True)


@nox.session
def lint(session: nox.Session) -> None:
    """ruff, mypy, and the news fragments."""
    session.install("--quiet", "--editable", ".[test,lint]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")
    session.run("towncrier", "build", "--draft", "--version", "next", silent=True)


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation's site, without a warning."""
    session.install("--quiet", "--editable", ".[docs]")
    session.run("zensical", "build", "--strict")


@nox.session
def build(session: nox.Session) -> None:
    """The sdist and the wheel, and whether both hold what they should.  They stay in ``dist/``."""
    session.install("--quiet", "mypy", *requirements("release"))
    dist, direct = ROOT / "dist", Path(session.create_tmp()).resolve()
    for old in [*dist.glob("rrmaster-*"), *direct.glob("rrmaster-*")]:
        old.unlink()
    session.run("python", "-m", "build", "--outdir", str(dist), silent=True)  # the wheel from the sdist
    session.run("python", "-m", "build", "--wheel", "--outdir", str(direct), silent=True)  # and from the work tree
    session.run("twine", "check", "--strict", *map(str, sorted(dist.glob("rrmaster-*"))))
    session.run("python", ".ci/artifacts.py", str(dist), str(direct))
    # As a user has it: the wheel, and a program in another directory.
    (wheel,) = dist.glob("rrmaster-*.whl")
    session.install("--quiet", "--force-reinstall", str(wheel))
    session.cd(direct)
    session.run("mypy", "--strict", "--config-file=", str(ROOT / ".ci" / "typed_program.py"))


@nox.session(default=False)
def sbom(session: nox.Session) -> None:
    """What the wheel in ``dist/`` brings with all extras, as a CycloneDX file in ``sbom/``.  After ``build``."""
    session.install("--quiet", *requirements("release"))
    python = _installed(session, "all")
    (wheel,) = (ROOT / "dist").glob("rrmaster-*.whl")
    out = ROOT / "sbom" / f"{wheel.name.partition('-py3')[0]}.cdx.json"
    out.parent.mkdir(exist_ok=True)
    session.run("cyclonedx-py", "environment", "--output-reproducible", "--validate", "--output-file", str(out), python)


@nox.session(default=False)
def advisories(session: nox.Session) -> None:
    """Whether a known advisory concerns what the extras install today, and the oldest versions that they allow."""
    session.install("--quiet", *requirements("release"))
    (site,) = Path(_installed(session, "all")).parent.parent.glob("lib/python3*/site-packages")
    others = [each for each in metadata.distributions(path=[str(site)]) if each.name != "rrmaster"]
    _audit(session, "installed", {each.name: each.version for each in others})
    needed = [*PROJECT["project"]["dependencies"]]
    for extra in requirements("all")[0].partition("[")[2].rstrip("]").split(","):
        needed += requirements(extra)
    needed.sort(reverse=True)  # where two extras need one package, the older version is the last
    pins = dict(re.findall(r"^([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)", "\n".join(needed), re.MULTILINE))
    _audit(session, "oldest", pins)


def _audit(session: nox.Session, name: str, pins: Mapping[str, str]) -> None:
    listed = Path(session.create_tmp()) / f"{name}.txt"
    listed.write_text("".join(f"{name}=={version}\n" for name, version in sorted(pins.items())))
    # Strict: what could not be looked up is otherwise a line, and a success.
    session.run("pip-audit", "--strict", "--requirement", str(listed), "--no-deps", "--disable-pip", "--desc")


def _installed(session: nox.Session, extra: str) -> str:
    """The Python of an environment that holds the wheel in ``dist/`` with this extra, and nothing else."""
    (wheel,) = (ROOT / "dist").glob("rrmaster-*.whl")
    home = Path(session.create_tmp()).resolve() / "installed"
    session.run("python", "-m", "venv", "--clear", "--without-pip", str(home))
    session.run("pip", "--python", str(home), "install", "--quiet", f"{wheel}[{extra}]")
    return str(home / "bin" / "python")
