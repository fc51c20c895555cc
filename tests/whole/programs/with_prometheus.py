"""Metrics of all workers, as docs/howto/preload.md has them."""

import os
import struct

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, multiprocess

Gauge("workers_up", "Workers that serve.", multiprocess_mode="livesum").set(1)
Counter("imports", "Imports of the application.").inc()
REQUESTS = Counter("requests", "Requests.")


def forget_the_dead():
    """A gauge counts the processes that run."""
    for name in os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]):
        pid = name.rpartition("_")[2].removesuffix(".db")
        if name.startswith("gauge_live") and not os.path.exists(f"/proc/{pid}"):
            try:
                multiprocess.mark_process_dead(pid)
            except FileNotFoundError:
                pass  # another worker was faster


def numbers_of_all():
    """A file that another process makes just now is empty, and cannot be read (prometheus_client 0.26)."""
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    try:
        return generate_latest(registry)
    except struct.error:
        return generate_latest(registry)


def app(environ, start_response):
    REQUESTS.inc()
    forget_the_dead()
    body = numbers_of_all()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body]
