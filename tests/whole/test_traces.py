"""OpenTelemetry in many workers, with its own SDK: each span arrives once, and says from which worker it comes."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import h11
import pytest
import trio
from attrs import Factory, define

from tests.whole.harness import BRIEF, PATIENCE, PROGRAMS, ROOT, Running, connect, running

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")


@define(eq=False)
class Receiver:
    """What a collector receives: OTLP over HTTP."""

    spans: list[tuple[str, dict[str, object]]] = Factory(list)
    """The name of each span, with its attributes and those of its resource."""

    async def serve(self, stream: trio.SocketStream) -> None:
        """One client, which keeps its connection."""
        http, body = h11.Connection(h11.SERVER), b""
        async with stream:
            while True:
                event = http.next_event()
                if event is h11.NEED_DATA:
                    try:
                        http.receive_data(await stream.receive_some())
                    except trio.BrokenResourceError:
                        return  # its worker was killed
                elif isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    self._take(body)
                    body = b""
                    answer = h11.Response(status_code=200, headers=[("content-length", "0")])
                    await stream.send_all((http.send(answer) or b"") + (http.send(h11.EndOfMessage()) or b""))
                    if http.our_state is h11.MUST_CLOSE:
                        return
                    http.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return

    def _take(self, body: bytes) -> None:
        request = trace_service.ExportTraceServiceRequest.FromString(body)
        for of_resource in request.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            for scope in of_resource.scope_spans:
                self.spans += [(span.name, resource | _attributes(span.attributes)) for span in scope.spans]

    async def until(self, count: int) -> None:
        """Wait for so many spans, besides those of trials."""
        with trio.fail_after(PATIENCE):
            while sum(name != "GET /" for name, _ in self.spans) < count:
                await trio.sleep(0.02)


def _attributes(pairs) -> dict[str, object]:  # type: ignore[no-untyped-def]
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


@asynccontextmanager
async def receiving() -> AsyncIterator[tuple[Receiver, dict[str, str]]]:
    """A receiver, and the environment that leads there.  Spans are sent every 100 ms, and without gzip."""
    receiver = Receiver()
    async with trio.open_nursery() as nursery:
        [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, receiver.serve, [listener])
        port = listener.socket.getsockname()[1]
        endpoint = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
        yield receiver, endpoint
        nursery.cancel_scope.cancel()


async def visit(master: Running, path: str) -> None:
    """One request, answered."""
    with trio.fail_after(PATIENCE):
        async with await connect(master.port) as stream:
            await stream.send_all(b"GET %s HTTP/1.1\r\nHost: shop\r\nConnection: close\r\n\r\n" % path.encode())
            found = b"".join([data async for data in stream])
            assert found.startswith(b"HTTP/1.1 200"), found


async def test_each_span_arrives_once_and_names_its_worker_over_a_reload_and_at_the_end() -> None:
    async with receiving() as (receiver, environ):
        async with running("traced:app", *BRIEF, workers=2, environ=environ) as master:
            assert "has imported traced:app" in master.text, "the workers are forked"
            for number in range(6):
                await visit(master, f"/first/{number}")
            await receiver.until(6)
            old = set(master.workers)
            master.signal(signal.SIGHUP)
            await master.until(
                lambda: len(set(master.workers) - old) == 2 and not old & set(master.workers), "reloaded"
            )
            for number in range(6):
                await visit(master, f"/second/{number}")
            assert await master.stop() == 0
            await receiver.until(12)  # what was not sent yet, the workers send at their end
        names = Counter(name for name, _ in receiver.spans if name != "GET /")
        assert names == Counter(f"GET /{which}/{number}" for which in ("first", "second") for number in range(6))
        for name, of in receiver.spans:
            assert of["service.name"] == "shop"
            assert of["rrmaster.worker.generation"] == (1 if "first" in name else 2)
            assert of["rrmaster.worker.slot"] in (0, 1)
        workers = {of["rrmaster.worker.id"] for _, of in receiver.spans}
        assert workers <= {1, 2, 3, 4}
        assert len({of["service.instance.id"] for _, of in receiver.spans}) == len(workers)


async def test_a_provider_that_the_import_has_made_sends_the_spans_of_each_forked_worker() -> None:
    async with receiving() as (receiver, environ):
        async with running("traced_at_import:app", workers=2, environ=environ) as master:
            assert "has imported traced_at_import:app" in master.text, "the workers are forked"
            for number in range(6):
                await visit(master, f"/{number}")
            killed = next(iter(master.workers))
            await receiver.until(6)
            os.kill(killed, signal.SIGKILL)
            await master.until(lambda: killed not in master.workers and len(master.workers) == 2, "it is replaced")
            workers = set(master.workers)
            for number in range(6, 12):
                await visit(master, f"/{number}")
            assert await master.stop() == 0
            await receiver.until(12)
        # The thread of the import leaves a doubt, so a process is forked and tried, and answers one request as well.
        spans = [(name, of) for name, of in receiver.spans if name != "GET /"]
        assert sorted(name for name, _ in spans) == sorted(f"GET /{number}" for number in range(12))
        assert {of["pid"] for _, of in spans} <= workers | {killed}


def test_the_page_has_the_function_that_is_tested() -> None:
    program = (PROGRAMS / "traced.py").read_text()
    function = program[program.index("@rrmaster.on_fork") : program.index("tracer = ")].strip()
    assert function in (ROOT / "docs/howto/observe.md").read_text()
