"""The image and the services of examples/container: what they say fits rrmaster, and each other.

Docker's own parsers have read them by hand (see the README there), and `try.py` runs the image's steps, as root.
"""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from rrmaster.cli.arguments import parse_arguments
from rrmaster.config.quantities import parse_duration
from rrmaster.config.settings import Settings
from rrmaster.config.sources import from_table, read
from rrmaster.rules.lifecycle import TERM_S
from tests.whole.harness import ROOT

yaml = pytest.importorskip("yaml")

HERE = ROOT / "examples" / "container"
LINES = re.findall(r"^([A-Z]+) (.*)$", (HERE / "Dockerfile").read_text(), re.MULTILINE)
COMPOSE = yaml.safe_load((HERE / "compose.yaml").read_text())
OURS = ("web", "api")


def said(instruction: str) -> str:
    """The last line with this instruction, which is the one that counts."""
    return [rest for word, rest in LINES if word == instruction][-1]


def settings() -> Settings:
    table = tomllib.loads((HERE / "rrmaster.toml").read_text())
    return read([from_table({"application": "shop:web"} | table, "rrmaster.toml")])[0]


def test_the_image_has_a_stage_that_builds_and_a_user_that_is_a_number() -> None:
    assert [rest for word, rest in LINES if word == "FROM"] == ["python:3.13-slim AS build", "python:3.13-slim"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", said("USER"))
    assert json.loads(said("HEALTHCHECK").partition(" CMD ")[2]) == ["rrmaster", "status", "--ready"]


def test_what_is_copied_is_in_the_repository_and_is_all_that_is_not_ignored() -> None:
    lines = (HERE / "Dockerfile.dockerignore").read_text().splitlines()
    everything, *ignored = [line for line in lines if not line.startswith("#")]
    copied = {name for word, rest in LINES if word == "COPY" and "--from" not in rest for name in rest.split()[:-1]}
    assert everything == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_first_stage_builds_rrmaster_from_all_that_its_build_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    needed = {"pyproject.toml", project["project"]["readme"], *project["project"]["license-files"]}
    needed |= set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    to_source = [rest.split()[:-1] for word, rest in LINES if word == "COPY" and "/source" in rest.split()[-1]]
    assert {name for names in to_source for name in names} == needed
    for name in OURS:
        assert COMPOSE["services"][name]["build"] == {"context": "../..", "dockerfile": "examples/container/Dockerfile"}


@pytest.mark.parametrize("command", [json.loads(said("CMD")), *(COMPOSE["services"][name]["command"] for name in OURS)])
def test_rrmaster_understands_each_command(command: list[str]) -> None:
    assert command[0] == "rrmaster"
    found = parse_arguments(command[1:])
    assert not getattr(found, "unknown", [])
    module, _, name = found.application.partition(":")
    assert f"async def {name}(" in (HERE / f"{module}.py").read_text()


@pytest.mark.parametrize("name", OURS)
def test_compose_waits_longer_than_the_delay_and_the_drain_take(name: str) -> None:
    waits = parse_duration(COMPOSE["services"][name]["stop_grace_period"])
    assert waits > settings().shutdown_delay + settings().graceful_timeout + TERM_S


def test_nginx_asks_the_services_at_the_port_that_rrmaster_binds() -> None:
    text = (HERE / "nginx.conf").read_text()
    (bind,) = settings().bind
    port = bind.rpartition(":")[2]
    assert re.findall(r"server (\w+):(\d+) resolve", text) == [(name, port) for name in OURS]
    assert said("EXPOSE") == port
    (published,) = COMPOSE["services"]["nginx"]["ports"]
    assert f"listen {published.rpartition(':')[2]};" in text


def test_what_a_service_waits_for_is_a_service_with_a_health_check() -> None:
    services = COMPOSE["services"]
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in services[name] or "build" in services[name]
