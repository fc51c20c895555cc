"""What may a person do from the page: reload, roll back, scale, restart; and who may?

A client that has the token may.  It comes with each request, in the form or as ``Authorization: Bearer``, and never in
a cookie, so no other site's page can use a browser that knows it.  Such a page is turned away as well: a browser says
from which site a form was sent.

::

    the page ── a link ──► GET /do/reload: what it does, a field for the token, "Yes"
                                │
                                └── POST /do/reload ──► the control socket, as `rrmaster reload` asks
"""

from __future__ import annotations

import hmac
import sys
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from .headers import HEADERS
from .page.assets import render
from .source import Source, Unreachable

LONGEST_FORM = 4096
"""Bytes of a form: a token and a number."""

TELL_S = 10.0
"""Seconds between two lines of the log about wrong tokens: a stranger must not fill it."""


@frozen
class Deed:
    """One thing that can be done."""

    title: str
    about: str
    confirm: str
    """The button."""
    field: str = ""
    """The name of the value that it needs, in the form and for the master."""
    label: str = ""
    is_number: bool = False


DEEDS: Mapping[str, Deed] = {
    "reload": Deed(
        "Reload",
        "Workers with the code on disk replace all others, if that code is good. The old ones finish what they have.",
        "Yes, reload",
    ),
    "rollback": Deed(
        "Roll back",
        "The code before the last reload serves again, as it was in memory. What the new code did to a database stays.",
        "Yes, roll back",
    ),
    "scale": Deed(
        "Change the number of workers",
        "If it falls, the workers in the highest slots finish what they have, and end.",
        "Yes, change it",
        "to",
        "Number of workers, such as 4, +1 or -1",
    ),
    "restart": Deed(
        "Restart a worker",
        "A new worker starts in this slot. Once it serves, the old one finishes what it has, and ends.",
        "Yes, restart it",
        "slot",
        "Slot of the worker",
        is_number=True,
    ),
}

# Without a referrer a browser would name no origin either, and the check of it could pass no form.
_PAGE = {
    **HEADERS,
    "referrer-policy": "same-origin",
    "content-security-policy": HEADERS["content-security-policy"].replace("form-action 'none'", "form-action 'self'"),
}


class Denied(Exception):
    """A request that is turned away, with the status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


@define(eq=False)
class Actions:
    """The pages that act.  They exist only if there is a token."""

    source: Source
    token: str = field(repr=False)
    _told: float = float("-inf")

    def routes(self) -> list[Route]:
        """The routes of a Starlette application."""
        return [
            Route("/do/{deed}", self.ask, methods=["GET"]),
            Route("/do/{deed}", self.act, methods=["POST"]),
        ]

    async def ask(self, request: Request) -> Response:
        """What it does, with a form to confirm it."""
        name = request.path_params["deed"]
        deed = DEEDS.get(name)
        if deed is None:
            return _answer(request, 404, "there is no such action")
        value = request.query_params.get(deed.field, "") if deed.field else ""
        facts = {"deed": name, "field": deed.field, "label": deed.label, "value": value, "said": "", "failed": False}
        page = render("action.html", title=deed.title, about=deed.about, confirm=deed.confirm, **facts)
        return HTMLResponse(page, headers=_PAGE)

    async def act(self, request: Request) -> Response:
        """Do it, if the token is right."""
        name = request.path_params["deed"]
        deed = DEEDS.get(name)
        if deed is None:
            return _answer(request, 404, "there is no such action")
        try:
            form = await self._admitted(request)
            more = _value(deed, form)
            answer = await self.source.order(name, **more)
        except Denied as denied:
            return _answer(request, denied.status, str(denied), deed.title)
        except Unreachable as error:
            return _answer(request, 503, str(error), deed.title)
        _tell(f"{name}{''.join(f' {value}' for value in more.values())}, asked by {_who(request)}")
        if answer.get("error"):
            return _answer(request, 400 if answer.get("status") == 2 else 409, str(answer["error"]), deed.title)
        return _answer(request, 200, str(answer.get("text") or answer.get("line") or "done"), deed.title)

    async def _admitted(self, request: Request) -> Mapping[str, str]:
        """The form of a request that may act.  Raises Denied."""
        if _from_elsewhere(request):
            raise Denied(403, "this form was sent from another site")
        form = await _form(request)
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else form.get("token", "")
        if not hmac.compare_digest(given.encode(), self.token.encode()):
            if time.monotonic() - self._told >= TELL_S:
                self._told = time.monotonic()
                _tell(f"a wrong token, from {_who(request)}")
            raise Denied(403, "the token is wrong" if given else "a token is needed")
        return form


def _from_elsewhere(request: Request) -> bool:
    """Whether a browser says that another site's page has sent this.  Programs, such as curl, say nothing."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None and site != "same-origin":
        return True
    return origin is not None and urlsplit(origin).netloc != request.headers.get("host")


async def _form(request: Request) -> Mapping[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_FORM:
            raise Denied(413, f"a form has at most {LONGEST_FORM} bytes")
    try:
        fields = parse_qs(body.decode(), max_num_fields=10)
    except ValueError:
        raise Denied(400, "this is no form") from None
    return {name: values[0] for name, values in fields.items()}


def _value(deed: Deed, form: Mapping[str, str]) -> dict[str, str | int]:
    """The value that it needs, as the control socket takes it.  Raises Denied."""
    if not deed.field:
        return {}
    value = form.get(deed.field, "")  # not stripped: in a form that was not encoded, "+1" is " 1"
    if not deed.is_number:
        return {deed.field: value}
    if not (value.isascii() and value.isdigit() and len(value) < 6):
        raise Denied(400, f"{deed.field!r} is a number")
    return {deed.field: int(value)}


def _answer(request: Request, status: int, text: str, title: str = "rrmaster") -> Response:
    if "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"text" if status == 200 else "error": text}, status, headers=HEADERS)
    nothing = {"about": "", "confirm": "", "deed": "", "field": "", "label": "", "value": ""}
    page = render("action.html", title=title, said=text, failed=status != 200, **nothing)
    return HTMLResponse(page, status, headers=_PAGE)


def _who(request: Request) -> str:
    return request.client.host if request.client else "a local process"


def _tell(text: str) -> None:
    """A line for the master's log, which has what this process prints."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
