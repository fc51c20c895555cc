"""May workers be forked from this process?  The traces decide, and where they leave a doubt, a trial.

::

    traces ──► a hindrance ──────────────────────────────► no; nothing is tried
         ├───► a doubt ──► a trial ──► it hangs or dies ─► no
         │                      └────► it is fit ────────► yes
         └───► nothing, or what does no harm ────────────► yes

Where no trace is a hindrance, two processes draw what compiled code makes at random (`twins`); the same prevents it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from attrs import evolve

from ....protocol.forks.safety import Finding, Traces, Verdict
from ...boot import Prepared
from ..traces import findings_of, traces_now
from ..watch import ImportWatch
from .forking import HANGS, fork_once
from .run import LIMIT_S, OF_WHAT_IS_LEFT, Outcome, Trial, fork_trial
from .twins import drawn_alike

_UNTRIED = "; not tried, because something else prevents forking"


def judge(before: Traces | None, watch: ImportWatch, prepared: Prepared, begun: float) -> tuple[Finding, ...] | Trial:
    """What the import has done, none of it in doubt any longer.

    In a process that is forked to be tried: that trial, which the caller has to serve.  `begun`: when the template was
    started, on the monotonic clock.
    """
    first = fork_once()
    after = traces_now(watch, first.renewed)
    found = [*findings_of(before, after), *watch.findings(before, after)]
    watch.value_files.take_out_gauges()
    if first.hangs:
        found.append(Finding(HANGS))
    found = _each_once(found)
    if all(each.verdict is not Verdict.HINDRANCE for each in found):
        found += drawn_alike()
    verdicts = {each.verdict for each in found}
    if Verdict.DOUBT not in verdicts:
        return tuple(found)
    if Verdict.HINDRANCE in verdicts:
        return tuple(
            evolve(each, why=f"{each.why}{_UNTRIED}") if each.verdict is Verdict.DOUBT else each for each in found
        )
    try:
        trial = fork_trial()
    except OSError as error:
        return _decided(found, Outcome(f"could not be made ({error.strerror})"))
    if trial.pid == 0:
        return trial
    left = prepared.launch.ready_timeout - (time.monotonic() - begun)
    limit = min(LIMIT_S, max(left, 0.0) * OF_WHAT_IS_LEFT)
    outcome = trial.outcome(prepared.launch, prepared.application.kind, limit)
    watch.value_files.remove_aside(trial.pid)
    return _decided(found, outcome)


def _each_once(found: Iterable[Finding]) -> list[Finding]:
    """Without what is said twice, or to be harmless in one place and not in another."""
    known = {(each.what, each.trace): each for each in found}
    bad = {each.trace for each in known.values() if each.trace and each.verdict is Verdict.HINDRANCE}
    return [each for each in known.values() if each.verdict is not Verdict.HARMLESS or each.trace not in bad]


def _decided(found: Iterable[Finding], outcome: Outcome) -> tuple[Finding, ...]:
    """The findings after a trial."""
    verdict = Verdict.HINDRANCE if outcome.trouble else Verdict.HARMLESS
    tried = f"a trial fork {outcome.trouble or f'{outcome.did} and ended well, in {outcome.seconds:.2f} s'}"
    after = [
        evolve(each, verdict=verdict, why=f"{each.why}; {tried}") if each.verdict is Verdict.DOUBT else each
        for each in found
    ]
    if outcome.trouble:
        after.append(Finding(f"left a process whose trial fork {outcome.trouble}", trace="trial"))
    return tuple(after)
