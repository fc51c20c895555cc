"""How are the lines that a worker prints logged?  Straight to the sinks, without a log record for each."""

from __future__ import annotations

import time

from attrs import frozen

from .access import MARK, access, split
from .capture import LineSplitter
from .formats import OutputSource, as_text
from .log import ENTRY, OUTPUT, Entry, logger, publish, subscribers
from .setup import SinkHandler, attached


def worker_output(slot: int, pid: int, generation: int, stream: str) -> LineSplitter:
    """What `capture_output` feeds with the bytes that this worker prints on "stdout" or "stderr"."""
    return LineSplitter(OutputLog(OutputSource(slot, pid, generation, stream)), mark=MARK.rstrip().encode())


@frozen(eq=False)
class OutputLog:
    """Logs the lines of one stream of a worker: the consumer of its `LineSplitter`."""

    source: OutputSource

    def room(self) -> bool:
        if subscribers or not attached or access.sink is not None:
            return True
        return logger.isEnabledFor(self.source.level) and any(handler.sink.room() for handler in self._handlers())

    def take(self, lines: list[str]) -> None:
        of_requests, lines = split(lines)
        if of_requests:
            access.write(of_requests, self.source)
            if not lines:
                return
        now = time.time()
        source = self.source
        if subscribers or not attached:
            level, fields = source.level_name, source.fields
            for entry in [Entry(now, level, OUTPUT, line, fields) for line in lines]:
                publish(entry)
                if not attached:  # inside another program, whose handlers want records
                    logger.log(source.level, "%s", as_text(entry), extra={ENTRY: entry})
        if logger.isEnabledFor(source.level):
            for handler in self._handlers():
                handler.sink.put(handler.format.output(source, lines, now))

    def count_dropped(self, lines: int, estimated: bool) -> None:
        if logger.isEnabledFor(self.source.level):  # below the log's level they are not missed
            for handler in self._handlers():
                handler.sink.count_dropped(lines, estimated)

    def _handlers(self) -> list[SinkHandler]:
        return [handler for handler in attached if handler.workers and self.source.level >= handler.level]
