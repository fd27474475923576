"""Every kind of gRPC call through the gateway: `grpc_calls.py HOST:PORT AUTHORITY`. Prints one line of JSON."""

import json
import sys

import grpc

target, authority = sys.argv[1:3]
options = (("grpc.default_authority", authority), ("grpc.enable_retries", 0))
service = "/tidegate.test.Echo"
found = {}
with grpc.insecure_channel(target, options) as channel:
    answer, call = channel.unary_unary(f"{service}/Unary").with_call(b"hello", timeout=20, metadata=(("x-probe", "p"),))
    found["unary"] = answer.decode()
    found["initial"] = dict(call.initial_metadata()).get("x-initial")
    found["trailing"] = dict(call.trailing_metadata()).get("x-trailing")
    found["metadata"] = dict(call.trailing_metadata()).get("x-seen-authority")
    large = b"x" * 3_000_000
    found["large"] = channel.unary_unary(f"{service}/Unary")(large, timeout=20) == large
    found["server_stream"] = [m.decode() for m in channel.unary_stream(f"{service}/ServerStream")(b"5", timeout=20)]
    found["long_stream"] = sum(1 for _ in channel.unary_stream(f"{service}/ServerStream")(b"2000", timeout=20))
    found["client_stream"] = channel.stream_unary(f"{service}/ClientStream")(iter([b"a", b"b", b"c"]), timeout=20).decode()

    def calls():
        for letter in "xyz":
            yield letter.encode()

    found["bidi"] = [m.decode() for m in channel.stream_stream(f"{service}/Bidi")(calls(), timeout=20)]
    try:
        channel.unary_unary(f"{service}/Unary")(b"fail", timeout=20)
    except grpc.RpcError as error:
        found["failure"] = [error.code().name, error.details()]
    call = channel.unary_stream(f"{service}/Forever")(b"", timeout=20)
    found["first"] = next(call).decode()
    call.cancel()
    found["cancelled"] = channel.unary_unary(f"{service}/Gone")(b"", timeout=20).decode()
    try:
        list(channel.unary_stream(f"{service}/Forever")(b"", timeout=0.3))
    except grpc.RpcError as error:
        found["deadline"] = error.code().name
    found["after_deadline"] = channel.unary_unary(f"{service}/Gone")(b"", timeout=20).decode()
    try:
        channel.unary_unary(f"{service}/Nothing")(b"", timeout=20)
    except grpc.RpcError as error:
        found["unimplemented"] = error.code().name
with grpc.insecure_channel(target, (("grpc.default_authority", "nobody.invalid"), ("grpc.enable_retries", 0))) as channel:
    try:
        channel.unary_unary(f"{service}/Unary")(b"", timeout=20)
    except grpc.RpcError as error:
        found["no_route"] = error.code().name
print(json.dumps(found))
