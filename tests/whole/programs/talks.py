"""A handler that exchanges messages with the embedding program, as its client orders."""

import os

import rrmaster


async def handler(stream):  # noqa: C901  # a table of orders
    me = rrmaster.current_worker()
    async for order in stream:
        word, _, rest = order.decode().partition(" ")
        match word:
            case "who":
                await stream.send_all(str(me.id).encode())
            case "env":
                await stream.send_all(os.environ.get(rest, "-").encode())
            case "tell":
                for number in range(int(rest)):
                    await me.send([me.id, number])
                await stream.send_all(b"told")
            case "send":
                try:
                    await me.send("x" * int(rest))
                except ValueError as error:
                    await stream.send_all(str(error).encode())
                else:
                    await stream.send_all(b"sent")
            case "echo":
                left = int(rest or -1)
                async for message in me.messages():
                    left -= message != "enough"
                    if message != "enough":
                        await me.send(message)
                    if message == "enough" or left == 0:
                        await stream.send_all(b"heard enough")
                        break
            case "leave":
                await me.disconnect()
                await stream.send_all(b"leaving")
            case "drain":
                await me.draining.wait()
                await stream.send_all(b"draining")
            case "exit":
                os._exit(int(rest))


async def echoes(stream):
    """Another handler, with an answer of its own: a test gives it as a callable."""
    await stream.send_all(b"echoes")
