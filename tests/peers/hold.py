"""Long-lived streams: `hold.py ADDRESS PORT WEBSOCKET_HOST GRPC_HOST STREAMS`.

Opens STREAMS WebSockets and as many bidirectional gRPC calls, prints `open`, and keeps a message going round on each of
them. A line on standard input ends it: one more echo on every stream, a clean close, one line of JSON.
"""

import asyncio
import json
import sys

import grpc
from websockets.asyncio.client import connect

address, port, websocket_host, grpc_host, streams = *sys.argv[1:5], int(sys.argv[5])
port = int(port)
pause = 0.1


async def hold_websocket(opened, stop):
    rounds = 0
    async with connect(f"ws://{websocket_host}/", host=address, port=port, proxy=None) as socket:
        opened.release()
        while True:
            last = stop.is_set()
            await socket.send(str(rounds))
            assert await asyncio.wait_for(socket.recv(), 10) == str(rounds)
            rounds += 1
            if last:
                return rounds
            await asyncio.sleep(pause)


async def hold_grpc(channel, opened, stop):
    rounds = 0
    call = channel.stream_stream("/tidegate.test.Echo/Bidi")()
    while True:
        last = stop.is_set()
        await call.write(str(rounds).encode())
        assert await asyncio.wait_for(call.read(), 10) == str(rounds).encode()
        rounds += 1
        if rounds == 1:
            opened.release()
        if last:
            await call.done_writing()
            assert await call.read() is grpc.aio.EOF
            assert await call.code() == grpc.StatusCode.OK
            return rounds
        await asyncio.sleep(pause)


async def main():
    stop = asyncio.Event()
    opened = asyncio.Semaphore(0)
    options = (("grpc.default_authority", grpc_host), ("grpc.enable_retries", 0))
    async with grpc.aio.insecure_channel(f"{address}:{port}", options=options) as channel:
        tasks = [asyncio.create_task(hold_websocket(opened, stop)) for _ in range(streams)]
        tasks += [asyncio.create_task(hold_grpc(channel, opened, stop)) for _ in range(streams)]
        for _ in tasks:
            await asyncio.wait_for(opened.acquire(), 20)
        print("open", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        stop.set()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    errors = [repr(result) for result in results if isinstance(result, BaseException)]
    rounds = [result for result in results if isinstance(result, int)]
    print(json.dumps({"streams": len(tasks), "errors": errors, "least_rounds": min(rounds, default=0)}), flush=True)


asyncio.run(main())
