"""What a policy and the autoscaler see where connections are parked: a peer, and requests."""

from __future__ import annotations

import pytest
import trio

from tests.whole.harness import BRIEF, PATIENCE, Running, running, status
from tests.whole.test_parking import SOON, Client, resting


async def client_at(host: str, master: Running) -> Client:
    """A client with this address."""
    with trio.fail_after(PATIENCE):
        stream = await trio.open_tcp_stream("127.0.0.1", master.port, local_address=host)
    master.clients.append(stream)
    return Client(master, 1, stream=stream)


@pytest.mark.parametrize(("policy", "proxied"), [("ip-hash", False), ("by_slot:by_peer", True)])
async def test_a_policy_chooses_for_each_request_by_the_same_peer(policy: str, proxied: bool, tmp_path):
    """Where there is a PROXY header it is the proxy: the master reads no byte, at the first request neither."""
    control = tmp_path / "control"
    options = ("--policy", policy, "--recall-after", "20s", "--control", str(control))
    header = ("--proxy-protocol", "v1", "--proxy-allow-from", "*") if proxied else ()
    async with running("parks:app", *SOON, *options, *header, workers=2) as master:
        await master.said("rest in the idle pool")
        clients = [await client_at(f"127.0.0.{number}", master) for number in range(2, 8)]
        for turn in range(3):
            for number, client in enumerate(clients):
                assert client.stream is not None
                if proxied and not turn:
                    await client.stream.send_all(b"PROXY TCP4 192.0.2.%d 198.51.100.1 5000 443\r\n" % number)
                await client.stream.send_all(b"GET /client HTTP/1.1\r\nHost: test\r\n\r\n")
                with trio.fail_after(PATIENCE):
                    pid, told = (await client._answer(client.stream)).split(b" ")
                client.pids.append(int(pid))
                host, port = client.stream.socket.getsockname()
                assert told.decode() == (f"192.0.2.{number}:5000" if proxied else f"{host}:{port}")
            await resting(control, len(clients))
        chosen = [set(client.pids) for client in clients]
        assert [len(pids) for pids in chosen] == [1] * len(clients)
        assert set.union(*chosen) == set(master.workers)
        if policy != "ip-hash":
            for client in clients:
                assert client.stream is not None
                host, port = client.stream.socket.getsockname()
                await master.said(rf"asked for {host}:{port}\b", times=3)


async def test_a_fleet_shrinks_though_clients_keep_connections_on_which_they_ask_nothing(tmp_path):
    control = tmp_path / "control"
    scaling = ("--workers", "1:2", "--scale-up-window", "0", "--scale-down-window", "0")
    options = (*BRIEF, *scaling, "--park-after", "1h", "--keep-alive", "1h", "--control", str(control))
    async with running("parks:app", *options, workers=None) as master:
        client = Client(master, 1)
        [client.stream] = await master.burst(1)
        await client.stream.send_all(Client._head(b"body"))
        await serving(control, 2)
        await client.stream.send_all(b"body")
        with trio.fail_after(PATIENCE):
            assert (await client._answer(client.stream)).endswith(b" body")
        await serving(control, 1)
        await client.ask()
        assert client.ends == {"answered": 1}


async def serving(control, count: int) -> None:
    """Wait until so many workers serve."""
    with trio.move_on_after(PATIENCE):
        while len([w for w in (await status(control)).workers if w.state == "serving"]) != count:
            await trio.sleep(0.05)
        return
    raise AssertionError(await status(control))
