"""Metrics of all workers, as docs/howto/preload.md has them."""

import os

from prometheus_client import CollectorRegistry, Gauge, generate_latest, multiprocess

Gauge("workers_up", "Workers that serve.", multiprocess_mode="livesum").set(1)


def forget_the_dead():
    """A gauge counts the processes that run."""
    for name in os.listdir(os.environ["PROMETHEUS_MULTIPROC_DIR"]):
        pid = name.rpartition("_")[2].removesuffix(".db")
        if name.startswith("gauge_live") and not os.path.exists(f"/proc/{pid}"):
            try:
                multiprocess.mark_process_dead(pid)
            except FileNotFoundError:
                pass  # another worker was faster


def app(environ, start_response):
    forget_the_dead()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [generate_latest(registry)]
