"""What becomes of calls whose client has left; and how many requests may a client reset?"""

from typing import Any

import pytest
from anycorn.protocol.http_stream import ASGIHTTPState
from attrs import Factory, define

from rrmaster.worker.serving.anycorn_calls import RESETS, RESETS_PER_S, Calls, ResetBudget
from rrmaster.worker.serving.asgi import ClientGone, Message, Receive, Send

START = {"type": "http.response.start", "status": 200, "headers": []}
PART = {"type": "http.response.body", "body": b"x", "more_body": True}
END = {"type": "http.response.body", "body": b""}


@define(eq=False)
class FakeStream:
    """anycorn's side of one request."""

    closed: bool = False
    state: ASGIHTTPState = ASGIHTTPState.RESPONSE
    heard: list[Message] = Factory(list)

    async def app_send(self, message: Message) -> None:
        self.heard.append(message)


async def call(stream: FakeStream, *messages: Message, gone: bool) -> list[str]:
    """Call an application that sends these, and then does its background task; returns what it has done."""
    done = []

    async def app(scope: Message, receive: Receive, send: Send, *threads: Any) -> None:
        if gone:
            calls.leave()
        for message in messages:
            await send(message)
        done.append("task")

    calls = Calls(app, lambda: done.append("abort"), lambda websocket: None)
    await calls.call({"type": "http"}, stream.app_send, stream.app_send)  # type: ignore[arg-type]
    return done


async def test_a_task_after_a_whole_answer_is_done_for_a_client_that_has_left_too() -> None:
    """Also behind Starlette's BaseHTTPMiddleware, which sends a whole answer as a part and an end."""
    for messages in ((START, END), (START, PART, END)):
        stream = FakeStream()
        assert await call(stream, *messages, gone=True) == ["task"]
        assert stream.heard == [*messages], "a part that is missing would be an error of the application's length"


async def test_an_answer_that_goes_on_raises_when_its_client_has_left() -> None:
    with pytest.raises(ClientGone):
        await call(FakeStream(), START, PART, PART, gone=True)
    assert await call(FakeStream(), START, PART, PART, END, gone=False) == ["task"]


async def test_a_request_that_was_reset_before_it_has_begun_does_not_begin() -> None:
    assert await call(FakeStream(closed=True), START, END, gone=False) == []


def test_a_client_may_reset_a_thousand_requests_at_once_and_then_33_a_second() -> None:
    budget = ResetBudget()
    assert [budget.spend(500.0) for _ in range(RESETS)] == [True] * RESETS
    assert [budget.spend(502.0) for _ in range(2 * RESETS_PER_S)] == [True] * 2 * RESETS_PER_S
    assert not budget.spend(502.0)
    assert budget.spend(10_000.0), "and what it has not used is kept"
