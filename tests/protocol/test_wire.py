"""The messages on the line: each survives encoding and decoding, and no datagram does any harm."""

import json
import os
import struct

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st

from rrmaster.protocol import wire
from rrmaster.protocol.parking.lane import MAX_MEMO
from rrmaster.protocol.uplink import decode_up
from rrmaster.protocol.wire import (
    Attend,
    Failed,
    Handoff,
    Lane,
    Listen,
    Listening,
    Nudge,
    ProtocolError,
    Ready,
    Report,
    Retiring,
)
from tests.fakes import a_line

LAW = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def unsigned(bits: int) -> st.SearchStrategy[int]:
    return st.integers(0, 2**bits - 1)


reports = st.builds(
    Report,
    unsigned(64),
    unsigned(32),
    st.booleans(),
    unsigned(32),
    unsigned(64),
    unsigned(64),
    unsigned(16),
    parked=unsigned(64),
)
numbers = st.none() | st.lists(st.integers(), max_size=50).map(tuple)
readies = st.builds(Ready, st.integers(), st.just(wire.PROTOCOL), numbers, st.booleans())
words = st.builds(Failed, st.text()) | st.builds(Retiring, st.text())
ports, backlogs = unsigned(16), st.none() | unsigned(16)
paths = st.text(st.characters(exclude_characters="\0"), max_size=wire.MAX_PATH - 1).map("/".__add__)
wishes = (
    st.builds(Listen, unsigned(16), st.ip_addresses().map(str), ports, unsigned(16), backlog=backlogs)
    | st.builds(Listen, unsigned(16), path=paths, backlog=backlogs, mode=st.none() | st.integers(0, 0o777))
    | st.builds(Attend, unsigned(16), st.booleans())
)
ups = reports | readies | words | wishes
downs = (
    st.builds(Handoff, unsigned(16), unsigned(8), st.booleans(), unsigned(8))
    | st.builds(Listening, unsigned(16), unsigned(16), unsigned(16), ports)
    | st.sampled_from([Nudge(), Lane()])
)
resumed = st.builds(
    Handoff, unsigned(16), unsigned(8), st.just(False), unsigned(8), unsigned(32), st.binary(max_size=MAX_MEMO)
)

any_text = st.text(st.characters())  # lone surrogates too: a traceback may hold what os.fsdecode made
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)
json_bodies = json_values | st.fixed_dictionaries(
    {},
    optional={
        "pid": json_values, "protocol": st.just(1) | json_values, "listeners": json_values,
        "seq": st.just(1) | json_values, "host": st.just("::1") | json_values, "port": st.just(1) | json_values,
        "path": st.just("/x") | json_values, "mode": json_values, "listener": st.just(1) | json_values,
    },
)  # fmt: skip
UP = [wire.READY, wire.REPORT, wire.FAILED, wire.RETIRING, wire.LISTEN, wire.ATTEND]
DOWN = [wire.HANDOFF, wire.NUDGE, wire.LISTENING]
KINDS = [*UP, *DOWN]


def frame(kind: int, body: bytes) -> bytes:
    return struct.pack("<BxH", kind, len(body)) + body


garbage = (
    st.binary(max_size=100)
    | st.builds(frame, st.sampled_from(KINDS) | unsigned(8), st.binary(max_size=100))
    | st.builds(frame, st.sampled_from(KINDS), json_bodies.map(lambda value: json.dumps(value).encode()))
)


@LAW
@given(ups)
def test_the_master_reads_what_a_worker_sends(message):
    assert decode_up(wire.encode(message)) == message


@LAW
@given(downs | resumed)
def test_a_worker_reads_what_the_master_sends(message):
    assert wire.decode_down(wire.encode(message)) == message


@LAW
@given(downs)
def test_everything_down_a_line_has_the_same_length(message):
    """Only then the number of unread messages is a division."""
    assert len(wire.encode(message)) == wire.DOWN_SIZE


@LAW
@given(resumed)
def test_a_memo_makes_a_message_longer_and_the_kernel_charges_the_same(message):
    datagram = wire.encode(message)
    assert wire.DOWN_SIZE <= len(datagram) <= wire.MAX_DOWN
    with a_line() as (line, letterbox), open(os.devnull) as file:
        line.hand_over(datagram, file.fileno())
        assert line.unclaimed() == 1
        found = letterbox.take()
        assert found is not None
        assert found[0] == message
        os.close(found[1])


@LAW
@given(ups | downs)
def test_no_message_is_empty_or_too_long(message):
    """An empty datagram reads as the end of the stream, a longer one would be cut off."""
    assert 0 < len(wire.encode(message)) <= wire.MAX_UP


@LAW
@given(garbage)
def test_garbage_is_read_or_skipped_or_refused(datagram):
    for decode, kinds in ((decode_up, wire.Up), (wire.decode_down, wire.Down)):
        try:
            message = decode(datagram)
        except ProtocolError:
            continue
        assert message is None or isinstance(message, kinds)


@LAW
@given(ups | downs, st.integers(0, 200), unsigned(8))
def test_a_message_with_a_wrong_byte_is_read_or_skipped_or_refused(message, place, value):
    datagram = bytearray(wire.encode(message))
    datagram[place % len(datagram)] = value
    for decode in (decode_up, wire.decode_down):
        try:
            decode(bytes(datagram))
        except ProtocolError:
            pass  # refused, as it should be


@LAW
@given(ups | downs, st.data())
def test_half_a_message_is_refused(message, data):
    datagram = wire.encode(message)
    half = datagram[: data.draw(st.integers(0, len(datagram) - 1))]
    with pytest.raises(ProtocolError):
        decode_up(half)
    with pytest.raises(ProtocolError):
        wire.decode_down(half)


@LAW
@given(ups | downs, st.binary(min_size=1, max_size=40))
def test_a_message_with_more_behind_it_is_refused(message, more):
    datagram = wire.encode(message) + more
    with pytest.raises(ProtocolError):
        decode_up(datagram)
    with pytest.raises(ProtocolError):
        wire.decode_down(datagram)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 16_000,  # deeper than Python recurses
        b'{"a":' * 3_000,
        b'{"protocol":1,"pid":' + b"9" * 5_000 + b"}",  # more digits than int() takes
        b"\xff\xfe\x00\xd8",  # half of a surrogate pair in UTF-16
        b"",
        b"null",
        b'{"reason":null}',
        b'{"reason":["text"]}',
        b'{"protocol":2,"pid":1}',
        b'{"protocol":1}',
        b'{"protocol":1,"pid":true}',
        b'{"protocol":1,"pid":1.5}',
        b'{"protocol":1,"pid":1,"listeners":0}',
        b'{"protocol":1,"pid":1,"listeners":["0"]}',
        b'{"protocol":1,"pid":1,"listeners":[true]}',
        b'{"seq":1}',
        b'{"seq":1,"host":"localhost","port":80,"index":0}',  # a name: the master resolves none
        b'{"seq":1,"host":"127.0.0.1","port":65536,"index":0}',
        b'{"seq":-1,"host":"127.0.0.1","port":80,"index":0}',
        b'{"seq":1,"host":"127.0.0.1","port":80,"index":0,"backlog":"8"}',
        b'{"seq":1,"path":"relative"}',
        b'{"seq":1,"path":"/nul\\u0000"}',
        b'{"seq":1,"path":"/' + b"x" * wire.MAX_PATH + b'"}',
        b'{"seq":1,"path":"/x","mode":512}',
        b'{"listener":true,"here":true}',
        b'{"listener":65536,"here":true}',
    ],
)
@pytest.mark.parametrize("kind", [wire.READY, wire.FAILED, wire.RETIRING, wire.LISTEN, wire.ATTEND])
def test_json_of_another_shape_is_refused(kind, body):
    with pytest.raises(ProtocolError):
        decode_up(frame(kind, body))


def test_a_report_or_handoff_that_is_too_short_is_refused():
    down = wire.decode_down
    for kind, decode in ((wire.REPORT, decode_up), (wire.HANDOFF, down), (wire.LISTENING, down)):
        with pytest.raises(ProtocolError, match="malformed"):
            decode(frame(kind, b"\0\0\0"))


@LAW
@given(reports | downs, st.binary(min_size=1, max_size=50))
def test_a_body_longer_than_known_is_read_as_far_as_it_is_known(message, news):
    """So an old worker works with a new master, and a new worker with an old master."""
    datagram = wire.encode(message)
    longer = frame(datagram[0], datagram[4:] + news)
    decode = decode_up if isinstance(message, Report) else wire.decode_down
    assert decode(longer) == message


@LAW
@given(readies | words | wishes, json_values)
def test_an_unknown_key_is_ignored(message, news):
    datagram = wire.encode(message)
    body = json.loads(datagram[4:]) | {"something new": news}
    assert decode_up(frame(datagram[0], json.dumps(body).encode())) == message


@LAW
@given(unsigned(8), st.binary(max_size=50))
def test_an_unknown_kind_is_skipped(kind, body):
    if kind not in UP:
        assert decode_up(frame(kind, body)) is None
    if kind not in DOWN:
        assert wire.decode_down(frame(kind, body)) is None


def test_the_numbers_of_the_kinds_are_all_different():
    kinds = [*KINDS, wire.NOTE]
    assert len(set(kinds)) == len(kinds)


@LAW
@given(any_text.filter(bool), st.integers(0, 20_000), any_text, st.sampled_from([Failed, Retiring]))
def test_a_reason_of_any_length_and_script_fits(text, length, tail, kind):
    reason = (text * (length // len(text) + 1))[:length] + tail
    datagram = wire.encode(kind(reason))
    assert len(datagram) <= wire.MAX_UP
    assert isinstance(decode_up(datagram), kind)


@pytest.mark.parametrize("letter", ["a", "ä", "你", "😀", '"', "\\", "\n", "\0", "\ud800"])
@pytest.mark.parametrize("length", [5_000, 15_000, 30_000, 100_000])
def test_a_reason_that_is_too_long_loses_its_middle(letter, length):
    """A traceback says at its end what happened, and at its beginning where."""
    reason = "In shop.py" + letter * max(length, wire.MAX_REASON) + "ValueError: this"
    read = decode_up(wire.encode(Failed(reason))).reason
    head, mark, tail = read.partition(" [...] ")
    assert head.startswith("In shop.py")
    assert mark
    assert tail.endswith("ValueError: this")
    assert reason.startswith(head)
    assert reason.endswith(tail)
    assert len(json.dumps(read)) > wire.MAX_REASON // 2, "no more is cut out than must be"


def test_a_reason_that_fits_is_not_touched():
    reason = "x" * (wire.MAX_REASON - 2)
    assert decode_up(wire.encode(Failed(reason))).reason == reason


def test_a_loop_that_was_stuck_for_hours_reports_as_much_as_fits():
    assert decode_up(wire.encode(Report(0, lag_us=2**40))).lag_us == 2**32 - 1


def test_nudges_are_counted_modulo_65536():
    assert decode_up(wire.encode(Report(0, asides=65536 + 3))).asides == 3


def test_a_worker_of_another_protocol_is_refused_by_name():
    with pytest.raises(ProtocolError, match=f"must speak protocol {wire.PROTOCOL}"):
        decode_up(wire.encode(Ready(1, protocol=wire.PROTOCOL + 1)))


# --- messages of the applications

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)


@given(JSON)
def test_a_message_of_the_application_survives_encoding_and_decoding(value):
    assert wire.decode_note(wire.encode_note(value)) == (value,)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, object(), b"bytes", "x" * (wire.MAX_NOTE + 1)])
def test_a_value_that_is_no_message_is_refused_at_the_sender(value):
    with pytest.raises(wire.NoteRefused):
        wire.encode_note(value)


def test_a_message_that_refers_to_itself_is_refused():
    value = []
    value.append(value)
    with pytest.raises(wire.NoteRefused):
        wire.encode_note(value)


@given(st.binary(max_size=200))
def test_no_datagram_of_the_talk_line_raises_anything_but_a_protocol_error(datagram):
    try:
        wire.decode_note(datagram)
    except wire.ProtocolError:
        pass


def test_retiring_now_differs_from_retiring_when_replaced():
    for wish in (wire.Retiring("why"), wire.Retiring("why", now=True)):
        assert decode_up(wire.encode(wish)) == wish


def test_a_report_without_the_newest_counts_is_a_report_all_the_same():
    whole = Report(3, 2, True, 5, 6, 7, 8, 9, orphaned=1, oldest_ms=2_500, full=True)
    assert decode_up(wire.encode(whole)) == whole
    body, short = wire.encode(whole)[4:], evolve(whole, full=False)
    assert decode_up(frame(wire.REPORT, body[: wire.SHORT_REPORT.size])) == evolve(short, orphaned=0, oldest_ms=0)
    assert decode_up(frame(wire.REPORT, body[: wire.SHORT_REPORT.size + 4])) == evolve(short, oldest_ms=0)
    assert decode_up(frame(wire.REPORT, body[: wire.SHORT_REPORT.size + 8])) == short
    assert decode_up(wire.encode(Report(7, oldest_ms=2**40))).oldest_ms == 2**32 - 1
