"""Serves all kinds of gRPC calls. It uses TLS if it gets a key and a chain, and logs its port."""

import sys
import threading
from concurrent import futures

import grpc


# The calls that wait, and those that waited until their caller ended them.
COUNTS = {"waiting": 0, "cancelled": 0}
LOCK = threading.Lock()


def log(line):
    print(line, file=sys.stderr, flush=True)


def count(what):
    with LOCK:
        COUNTS[what] += 1


def unary(request, context):
    fields = {key: value for key, value in context.invocation_metadata()}
    context.set_trailing_metadata((("x-sum", str(len(request))), ("x_under", "1")))
    if request == b"fields?":
        return repr(sorted(fields.items())).encode()
    if request == b"time?":
        return str(context.time_remaining()).encode()
    if request.startswith(b"count "):
        return str(COUNTS[request[6:].decode()]).encode()
    return request


def collect(requests, context):
    lengths = [len(request) for request in requests]
    return f"{len(lengths)} {sum(lengths)}".encode()


def expand(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def echo(requests, context):
    for request in requests:
        yield request


def greet(requests, context):
    """Sends a message before it waits for the first one of the caller."""
    yield b"hello"
    for request in requests:
        yield b"you said " + request


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: \u00e4 100%")


def wait(context):
    ended = threading.Event()
    if not context.add_callback(ended.set):
        # The call has ended already.
        ended.set()
    count("waiting")
    if ended.wait(30):
        count("cancelled")


def wait_unary(request, context):
    wait(context)
    return b""


def wait_stream(request, context):
    yield b"begun"
    wait(context)


def wait_echo(requests, context):
    yield next(requests)
    wait(context)


def stop(request, context):
    """Ends a stream with an error after its first message."""
    yield b"begun"
    context.abort(grpc.StatusCode.DATA_LOSS, "gave up")


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Collect": grpc.stream_unary_rpc_method_handler(collect),
    "Expand": grpc.unary_stream_rpc_method_handler(expand),
    "Echo": grpc.stream_stream_rpc_method_handler(echo),
    "Greet": grpc.stream_stream_rpc_method_handler(greet),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Stop": grpc.unary_stream_rpc_method_handler(stop),
    "WaitUnary": grpc.unary_unary_rpc_method_handler(wait_unary),
    "WaitStream": grpc.unary_stream_rpc_method_handler(wait_stream),
    "WaitEcho": grpc.stream_stream_rpc_method_handler(wait_echo),
}


def main(key=None, chain=None):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=32), options=options)
    handler = grpc.method_handlers_generic_handler("test.Calls", METHODS)
    server.add_generic_rpc_handlers((handler,))
    if key:
        with open(key, "rb") as key, open(chain, "rb") as chain:
            credentials = grpc.ssl_server_credentials([(key.read(), chain.read())])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    log(f"listening on 127.0.0.1:{port}")
    server.wait_for_termination()


main(*sys.argv[1:])
