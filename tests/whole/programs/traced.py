"""Traces with OpenTelemetry, as docs/howto/observe.md has them."""

import os

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import rrmaster


@rrmaster.on_fork
def begin_tracing():
    """Each worker has its own provider: its resource names it, and its thread sends its spans."""
    slot, generation, worker = (os.environ[f"RRMASTER_{name}"] for name in ("WORKER_SLOT", "GENERATION", "WORKER_ID"))
    resource = Resource.create(
        {
            "service.name": "shop",
            "service.instance.id": f"{os.uname().nodename}-{slot}-{worker}",
            "rrmaster.worker.slot": int(slot),
            "rrmaster.worker.id": int(worker),
            "rrmaster.worker.generation": int(generation),
        }
    )
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


tracer = trace.get_tracer("shop")


async def app(scope, receive, send):
    if scope["type"] == "http":
        with tracer.start_as_current_span(f"GET {scope['path']}"):
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
