"""Does this worker park connections?  If so it loads what it needs for that, and otherwise nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from ...protocol.launch import Launch
from ..duty import Duty, Taken

if TYPE_CHECKING:
    from ..serving.anycorn_connection import AnycornConnection
    from .lot import Lot
    from .on_trio import AnycornGuest, TrioLot
    from .streams import StreamLot, WriterLot


def lot_of(
    duty: Duty,
    launch: Launch,
    loop: Any,
    guests: Collection[Any],
    on_away: Callable[[], None],
    threaded: bool = False,
) -> Lot | None:
    """Where a server on asyncio or uvloop parks connections; None: nowhere.  `threaded`: each place has a thread."""
    if (after := launch.parks_after) is None:
        return None
    from .law import ParkingLaw
    from .on_asyncio import AsyncioLot

    one_queue = launch.asked_to_park_after is not None
    law = ParkingLaw(after, launch.places, threaded and one_queue, waits=threaded and not one_queue)
    lot = AsyncioLot(duty, law, guests, launch.keep_alive, on_away, loop=loop)
    duty.park_with(lot.take_lane, launch.places)
    return lot


def trio_lot_of(duty: Duty, launch: Launch, guests: Collection[Any]) -> TrioLot | None:
    """Where anycorn's connections of HTTP/1.1 are parked; None: nowhere."""
    if (after := launch.parks_after) is None:
        return None
    from .law import ParkingLaw
    from .on_trio import TrioLot

    lot = TrioLot(duty, ParkingLaw(after, launch.places), guests, launch.keep_alive)
    duty.park_with(lot.take_lane, launch.places)
    return lot


def guest_of(lot: TrioLot | None, taken: Taken, connection: AnycornConnection, stream: Any) -> AnycornGuest | None:
    """The connection, as it is parked; None: it stays."""
    if lot is None or taken.probe:
        return None
    from .on_trio import AnycornGuest

    lot.begin()
    return AnycornGuest(lot, taken, connection, stream)


def parks_of(lot: Lot | None) -> tuple[type[Any], ...]:
    """The mix-in for protocols of HTTP/1.1 whose connections are parked in this lot."""
    if lot is None:
        return ()
    from ..serving.http1.parked import Parks

    return (Parks,)


def stream_lot_of(duty: Duty, launch: Launch) -> StreamLot | None:
    """Where handlers on trio park their connections; None: nowhere."""
    if launch.asked_to_park_after is None:
        return None
    from .streams import StreamLot

    lot = StreamLot(duty, launch.keep_alive)
    duty.park_with(lot.take_lane, launch.places, lot.park)
    return lot


def writer_lot_of(duty: Duty, launch: Launch) -> WriterLot | None:
    """Where handlers on asyncio park their connections; None: nowhere."""
    if launch.asked_to_park_after is None:
        return None
    from .streams import WriterLot

    lot = WriterLot(duty, launch.keep_alive)
    duty.park_with(lot.take_lane, launch.places, lot.park_writer)
    return lot
