"""WebSocket and gRPC backends for the end-to-end tests.

Prints one line of JSON with the ports that were taken; ends when standard input is closed.
"""

import asyncio
import contextlib
import json
import sys
import threading
import time
from concurrent import futures

import grpc
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed


def unary(request, context):
    """Echoes the request, and the metadata that arrived, as the first letters of keys allow."""
    if request == b"fail":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "asked to fail: 100 % of it")
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", "begin"),))
    context.set_trailing_metadata((("x-trailing", "end"), ("x-seen-authority", metadata.get("x-probe", "-"))))
    return request


def server_stream(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def client_stream(requests, context):
    return b"".join(requests)


def bidi(requests, context):
    yield from requests


gone = threading.Semaphore(0)


def forever(request, context):
    """Streams until the client goes away; `Gone` tells of it."""
    context.add_callback(gone.release)
    yield b"first"
    while context.is_active():
        time.sleep(0.02)


def is_gone(request, context):
    return b"yes" if gone.acquire(timeout=10) else b"no"


class Echo(grpc.GenericRpcHandler):
    """`/tidegate.test.Echo/*` over raw bytes: no generated code is needed."""

    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Forever": grpc.unary_stream_rpc_method_handler(forever),
        "Gone": grpc.unary_unary_rpc_method_handler(is_gone),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
    }

    def service(self, handler_call_details):
        service, _, method = handler_call_details.method.rpartition("/")
        return self.methods.get(method) if service == "/tidegate.test.Echo" else None


async def echo(connection):
    with contextlib.suppress(ConnectionClosed):
        async for message in connection:
            await connection.send(message)


def subprotocol(connection, offered):
    return "chat" if "chat" in offered else None


async def main():
    # Long streams hold a thread each.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=64))
    server.add_generic_rpc_handlers((Echo(),))
    grpc_port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    async with serve(echo, "127.0.0.1", 0, max_size=None, select_subprotocol=subprotocol) as websockets:
        port = websockets.sockets[0].getsockname()[1]
        print(json.dumps({"websocket": port, "grpc": grpc_port}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    server.stop(None)


asyncio.run(main())
