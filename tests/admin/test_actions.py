"""What the page may do: with the token and from its own site, and nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from attrs import evolve

from rrmaster.admin.actions import DEEDS, LONGEST_FORM, Actions
from rrmaster.admin.app import Pages
from rrmaster.admin.source import Source
from rrmaster.config.readiness import ReadyWhen
from tests.admin.fake_master import FakeMaster
from tests.status.snapshots import FOUR

TOKEN = "correct-horse-battery"
BROWSER = {"accept": "text/html,*/*", "origin": "http://localhost:9000", "sec-fetch-site": "same-origin"}
BEARER = {"authorization": f"Bearer {TOKEN}"}


def send(
    method: str, path: str, master: FakeMaster, headers: dict[str, str], token: str = TOKEN, **more: Any
) -> httpx.Response:
    async def ask() -> httpx.Response:
        source = Source(master)  # type: ignore[arg-type]
        pages = Pages(source, ReadyWhen(count=1), Actions(source, token) if token else None)
        transport = httpx.ASGITransport(pages.application(any_host=False))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost:9000") as client:
            return await client.request(method, path, headers=headers, **more)

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("path", "form", "order"),
    [
        ("/do/reload", {}, ("reload", {})),
        ("/do/rollback", {}, ("rollback", {})),
        ("/do/scale", {"to": "+1"}, ("scale", {"to": "+1"})),
        ("/do/restart", {"slot": "3"}, ("restart", {"slot": 3})),
    ],
)
def test_a_form_with_the_token_from_the_page_itself_acts(
    path: str, form: dict[str, str], order: tuple[str, dict[str, Any]]
) -> None:
    master = FakeMaster(FOUR)
    answer = send("POST", path, master, BROWSER, data={"token": TOKEN, **form})
    assert answer.status_code == 200, answer.text
    assert "it is done" in answer.text
    assert master.orders == [order]


def test_a_program_gives_the_token_in_a_header_and_gets_json() -> None:
    master = FakeMaster(FOUR)
    answer = send("POST", "/do/reload", master, BEARER)
    assert (answer.status_code, answer.json()) == (200, {"text": "it is done"})
    assert master.orders == [("reload", {})]


@pytest.mark.parametrize("path", [f"/do/{name}" for name in DEEDS])
@pytest.mark.parametrize(
    ("headers", "data"),
    [
        (BROWSER, {}),
        (BROWSER, {"token": ""}),
        (BROWSER, {"token": TOKEN[:-1]}),
        (BROWSER, {"token": TOKEN + "x"}),
        (BROWSER, {"token": "t\u00f6ken-of-another-master"}),
        ({"authorization": "Bearer wrong"}, {"token": TOKEN}),
        ({"authorization": f"Basic {TOKEN}"}, {}),
        ({"cookie": f"token={TOKEN}"}, {}),
        (BROWSER | {"sec-fetch-site": "cross-site"}, {"token": TOKEN}),
        (BROWSER | {"sec-fetch-site": "same-site"}, {"token": TOKEN}),
        (BROWSER | {"origin": "http://shop.example"}, {"token": TOKEN}),
        (BROWSER | {"origin": "null"}, {"token": TOKEN}),
        (BROWSER | {"origin": "http://localhost:8000"}, {"token": TOKEN}),
        (BEARER | {"origin": "http://shop.example"}, {}),
    ],
)
def test_without_the_token_or_from_another_site_nothing_happens(
    path: str, headers: dict[str, str], data: dict[str, str]
) -> None:
    master = FakeMaster(FOUR)
    answer = send("POST", path, master, headers, data={"to": "1", "slot": "0", **data})
    assert answer.status_code == 403
    assert master.orders == []
    assert TOKEN not in answer.text


@pytest.mark.parametrize("name", DEEDS)
def test_a_link_only_asks(name: str) -> None:
    master = FakeMaster(FOUR)
    for method in ("GET", "HEAD"):
        assert send(method, f"/do/{name}?token={TOKEN}&slot=1&to=1", master, BROWSER | BEARER).status_code == 200
    for method in ("PUT", "DELETE", "PATCH"):
        assert send(method, f"/do/{name}", master, BROWSER | BEARER).status_code == 405
    assert master.orders == []


def test_the_question_has_the_slot_of_the_link_and_lets_the_form_be_sent_to_its_own_site_alone() -> None:
    answer = send("GET", "/do/restart?slot=3%22%3E%3Cscript%3E", FakeMaster(FOUR), BROWSER)
    assert 'value="3&#34;&gt;&lt;script&gt;"' in answer.text
    assert "form-action 'self'" in answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["referrer-policy"] == "same-origin", "else a browser would send no origin with the form"


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_without_a_token_of_its_own_the_server_has_no_actions(method: str) -> None:
    master = FakeMaster(FOUR)
    assert send(method, "/do/reload", master, BROWSER, token="").status_code == 404
    assert "do/" not in send("GET", "/", master, BROWSER, token="").text
    assert master.orders == []


def test_the_page_links_to_each_action() -> None:
    text = send("GET", "/", FakeMaster(FOUR), BROWSER).text
    for link in ("do/reload", "do/rollback", "do/scale", "do/restart?slot=3"):
        assert f'href="{link}"' in text
    assert TOKEN not in text


def test_a_refusal_of_the_masters_is_told() -> None:
    busy = FakeMaster(FOUR, says={"status": 13, "error": "a reload runs already: soaking"})
    answer = send("POST", "/do/reload", busy, BEARER)
    assert (answer.status_code, answer.json()) == (409, {"error": "a reload runs already: soaking"})
    assert send("POST", "/do/scale", FakeMaster(FOUR, says={"status": 2, "error": "no"}), BEARER).status_code == 400
    assert send("POST", "/do/reload", FakeMaster(None), BEARER).status_code == 503
    assert send("POST", "/do/stop", FakeMaster(FOUR), BEARER).status_code == 404


@pytest.mark.parametrize("slot", ["", "x", "-1", "1.5", "999999", "\u0663"])
def test_what_is_no_slot_is_refused(slot: str) -> None:
    master = FakeMaster(FOUR)
    assert send("POST", "/do/restart", master, BEARER, data={"slot": slot}).status_code == 400
    assert master.orders == []


def test_a_plus_that_was_not_encoded_does_not_become_another_size() -> None:
    master = FakeMaster(FOUR)
    send("POST", "/do/scale", master, BEARER, content=b"to=+1")
    assert master.orders == [("scale", {"to": " 1"})], "which a master refuses"


def test_a_form_that_is_no_form_is_refused() -> None:
    master = FakeMaster(FOUR)
    assert send("POST", "/do/reload", master, BEARER, content=b"x" * (LONGEST_FORM + 1)).status_code == 413
    assert send("POST", "/do/reload", master, BEARER, content=b"\xff\xfe").status_code == 400
    assert send("POST", "/do/reload", master, BEARER, content=b"a=1&" * 100).status_code == 400
    assert master.orders == []


def test_the_token_is_not_in_what_is_shown_of_the_object() -> None:
    assert TOKEN not in repr(Actions(Source(FakeMaster(evolve(FOUR))), TOKEN))  # type: ignore[arg-type]
