"""WebSocket traffic through the gateway: `websocket_calls.py ADDRESS PORT HOST`. Prints one line of JSON."""

import asyncio
import json
import sys

from websockets.asyncio.client import connect

address, port, host = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def open_socket(**options):
    return connect(f"ws://{host}/chat?a=1", host=address, port=port, max_size=None, proxy=None, **options)


async def main():
    found = {}
    async with open_socket(subprotocols=["chat"]) as socket:
        found["subprotocol"] = socket.subprotocol
        await socket.send("hello")
        found["text"] = await socket.recv()
        for size in (0, 1, 125, 126, 65535, 65536, 1_000_000):
            data = bytes(size)
            await socket.send(data)
            found[f"binary_{size}"] = await socket.recv() == data
        await socket.send(["frag", "men", "ted"])
        found["fragmented"] = await socket.recv()
        pong = await socket.ping()
        found["ping"] = await pong >= 0
        await socket.close(code=4001, reason="enough")
        found["close"] = [socket.close_code, socket.close_reason]
    sockets = await asyncio.gather(*(open_socket() for _ in range(20)))
    for number, socket in enumerate(sockets):
        await socket.send(str(number))
    found["many"] = [await socket.recv() for socket in sockets] == [str(n) for n in range(20)]
    await asyncio.gather(*(socket.close() for socket in sockets))
    print(json.dumps(found))


asyncio.run(asyncio.wait_for(main(), 60))
