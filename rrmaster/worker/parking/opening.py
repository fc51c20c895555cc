"""Does this worker park connections?  If so it loads what it needs for that, and otherwise nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ...protocol.launch import Launch
from ..duty import Duty

if TYPE_CHECKING:
    from .lot import Lot
    from .streams import StreamLot


def lot_of(duty: Duty, launch: Launch, loop: Any, guests: Collection[Any], on_away: Callable[[], None]) -> Lot | None:
    """Where a server on asyncio or uvloop parks its connections; None: nowhere."""
    if launch.park_after is None:
        return None
    from .law import ParkingLaw
    from .lot import Lot

    law = ParkingLaw(launch.park_after, launch.worker_connections)
    lot = Lot(duty, law, loop, guests, launch.keep_alive, on_away)
    duty.park_with(lot.take_lane, launch.worker_connections)
    return lot


def parks_of(lot: Lot | None) -> tuple[type[Any], ...]:
    """The mix-in for protocols of HTTP/1.1 whose connections are parked in this lot."""
    if lot is None:
        return ()
    from ..serving.http1.parked import Parks

    return (Parks,)


def stream_lot_of(duty: Duty, launch: Launch) -> StreamLot | None:
    """Where handlers on trio park their connections; None: nowhere."""
    if launch.park_after is None:
        return None
    from .streams import StreamLot

    lot = StreamLot(duty, launch.keep_alive)
    duty.park_with(lot.take_lane, launch.worker_connections, lot.park)
    return lot
