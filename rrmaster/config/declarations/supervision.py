"""How long does the master wait, how does a reload go, and when is a worker replaced or the fleet scaled?"""

from __future__ import annotations

from attrs import frozen

from ..names import parse_probe
from ..option import in_development, option
from ..quantities import from_to, parse_duration, parse_share, parse_size, parse_surge, positive_duration

_TIMEOUTS, _RELOAD, _RECYCLING = "how long to wait", "reload and health", "recycling and scaling"


@frozen(slots=False, kw_only=True)
class SupervisionOptions:
    """Timeouts, reload, health checks, recycling and scaling."""

    ready_timeout: float = option(
        30.0, positive_duration, _TIMEOUTS, "TIME", "a worker that is not ready after this time counts as failed"
    )
    # With --reload: most requests are done in a second, and a long poll or a websocket holds up neither the next reload
    # nor Ctrl-C for longer.
    graceful_timeout: float = option(
        in_development(1.0, 30.0),
        parse_duration,
        _TIMEOUTS,
        "TIME",
        "the time in which a stopping worker may finish its connections; with --reload 1s",
        shown="30s",
    )
    # Kubernetes takes a pod out of its endpoints beside, not before, SIGTERM: clients still come for some seconds.
    shutdown_delay: float = option(
        0.0,
        parse_duration,
        _TIMEOUTS,
        "TIME",
        "on SIGTERM say that the fleet is not ready, and serve on for this time before the drain begins, because load "
        "balancers learn late; 0: none",
    )
    hang_timeout: float = option(
        30.0,
        parse_duration,
        _TIMEOUTS,
        "TIME",
        "a worker whose loop has not reported for this time, in which it had a processor, is killed and replaced, "
        "its stacks in the log; 0: never",
    )
    heartbeat: float = option(
        0.5, positive_duration, _TIMEOUTS, "TIME", "the longest time between two reports of a worker", shown="500ms"
    )

    # The whole generation at once: it is judged once, in the time of one probation and one soak.  Until then the
    # old one is untouched, so a way back costs no client anything and starts nothing.  A smaller surge has a way back
    # too where there are templates, but takes as many times longer as it has batches, and saves little: a forked worker
    # needs a quarter of the memory of another.  (Kubernetes' 25 % saves whole machines.)  Without templates the memory
    # of twice the fleet is needed for some seconds; on a lean machine, set 1.
    surge: float = option(
        1.0,
        parse_surge,
        _RELOAD,
        "N|P%",
        "additional workers that may live during a reload; with less than 100% it goes in batches, and only with "
        "templates (--preload) is there a way back from the second one",
        shown="100%",
    )
    # Most bad code that starts at all fails in its first seconds.
    probation: float = option(
        in_development(0.0, 2.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "the time for which new workers of a reload must live without traffic; with --reload 0",
        shown="2s",
    )
    soak: float = option(
        in_development(0.0, 2.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "the time for which they then must serve their share, before the old workers go; with --reload 0",
        shown="2s",
    )
    # Most bad releases are noticed in minutes.  It costs the memory of one process, most of which is shared.  In
    # development the way back is the editor's.
    rollback_window: float = option(
        in_development(0.0, 600.0),
        parse_duration,
        _RELOAD,
        "TIME",
        "the time after a reload for which the code of the previous generation stays in memory, for `rrmaster "
        "rollback`; 0: none; with --reload 0",
        shown="10m",
    )
    # Kubernetes' progressDeadlineSeconds.
    reload_timeout: float = option(600.0, positive_duration, _RELOAD, "TIME", "the time limit of a whole reload")
    probe: str | None = option(
        None,
        parse_probe,
        _RELOAD,
        "PROBE",
        "tcp, http:/path or module:callable: a health check of each worker, before it serves and then again and again; "
        "a worker that fails it is replaced",
    )
    # The numbers of the health check are Kubernetes' (periodSeconds, failureThreshold, successThreshold); its
    # timeoutSeconds is 1.
    probe_interval: float = option(10.0, positive_duration, _RELOAD, "TIME", "the time between two probes of a worker")
    probe_timeout: float = option(2.0, positive_duration, _RELOAD, "TIME", "the time limit of an answer to a probe")
    probe_failures: int = option(3, from_to(1, 1000), _RELOAD, "N", "failures in a row that make a worker unhealthy")
    probe_successes: int = option(
        1, from_to(1, 1000), _RELOAD, "N", "successes in a row that make a new worker healthy"
    )

    max_requests: int = option(
        0,
        from_to(0, 2**31),
        _RECYCLING,
        "N",
        "replace a worker that has served this number of requests (with a stream handler: connections), 10 % more or "
        "less; 0: never",
    )
    max_age: float = option(
        0.0, parse_duration, _RECYCLING, "TIME", "replace a worker of this age, 10 % more or less; 0: never"
    )
    max_memory: int = option(
        0, parse_size, _RECYCLING, "SIZE", "replace a worker whose resident memory stays above this size; 0: never"
    )
    # Headroom: at 70 % a burst finds idle workers while new ones start.
    target_busy: float = option(
        0.7,
        parse_share,
        _RECYCLING,
        "P%",
        "with --workers LEAST:MOST, the share of workers that should be busy",
        shown="70%",
    )
    # One burst is no trend.
    scale_up_window: float = option(
        3.0,
        parse_duration,
        _RECYCLING,
        "TIME",
        "with LEAST:MOST, the time for which more workers must be wanted before the fleet grows",
    )
    # Kubernetes' default stabilisation.
    scale_down_window: float = option(
        300.0,
        parse_duration,
        _RECYCLING,
        "TIME",
        "with LEAST:MOST, the time for which fewer workers must be wanted before the fleet shrinks",
    )
