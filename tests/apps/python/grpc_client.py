"""Makes the gRPC calls of one group and checks their outcomes. It ends with status 0 if all are right.

The file of roots makes it use TLS. A dash in its place means no TLS."""

import sys
import threading
import time

import grpc

StatusCode = grpc.StatusCode


class Calls:
    def __init__(self, channel):
        self.channel = channel

    def __getattr__(self, name):
        kind, method = name.split("_")
        return getattr(self.channel, {"uu": "unary_unary", "us": "unary_stream", "su": "stream_unary", "ss": "stream_stream"}[kind])(
            f"/test.Calls/{method}"
        )


def same(found, expected):
    assert found == expected, f"{found!r}, expected {expected!r}"


def failure(call):
    try:
        result = call()
        if not isinstance(result, bytes):
            result = list(result)
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"no error: {result!r}")


def unary(calls):
    answer, call = calls.uu_Unary.with_call(b"abc")
    same(answer, b"abc")
    same(call.code(), StatusCode.OK)
    same(dict(call.trailing_metadata()), {"x-sum": "3", "x_under": "1"})
    same(calls.uu_Unary(b""), b"")
    metadata = (("x-own", "1"), ("x-bin", b"\x00\xff"))
    fields = calls.uu_Unary(b"fields?", metadata=metadata).decode()
    assert "('x-own', '1')" in fields and "('x-bin', b'\\x00\\xff')" in fields, fields


def large(calls):
    for length in (9_000, 100_000, 4 * 1024 * 1024):
        message = bytes(length)
        assert calls.uu_Unary(message) == message, length


def streams(calls):
    same(calls.su_Collect(iter([b"ab"] * 1000)), b"1000 2000")
    same(calls.su_Collect(iter([])), b"0 0")
    same([int(number) for number in calls.us_Expand(b"1000")], list(range(1000)))
    same(list(calls.us_Expand(b"0")), [])
    same(list(calls.ss_Echo(iter([bytes(70_000)] * 20))), [bytes(70_000)] * 20)


class Script:
    """The messages of a caller that sends each one only when it is told to."""

    def __init__(self):
        self.condition = threading.Condition()
        self.messages = []

    def send(self, message):
        with self.condition:
            self.messages.append(message)
            self.condition.notify()

    def __iter__(self):
        return self

    def __next__(self):
        with self.condition:
            while not self.messages:
                self.condition.wait()
            message = self.messages.pop(0)
        if message is None:
            raise StopIteration
        return message


def turns(calls):
    """Sends each message after the answer to the one before, and lets the server speak first."""
    for method, first in ((calls.ss_Echo, None), (calls.ss_Greet, b"hello")):
        script = Script()
        answers = method(script)
        if first:
            same(next(answers), first)
        for number in range(20):
            message = str(number).encode()
            script.send(message)
            same(next(answers), b"you said " + message if first else message)
        script.send(None)
        same(list(answers), [])


def errors(calls):
    error = failure(lambda: calls.uu_Fail(b""))
    same((error.code(), error.details()), (StatusCode.NOT_FOUND, "no such thing: \u00e4 100%"))
    error = failure(lambda: calls.us_Stop(b""))
    same((error.code(), error.details()), (StatusCode.DATA_LOSS, "gave up"))
    error = failure(lambda: calls.uu_Nothing(b""))
    same(error.code(), StatusCode.UNIMPLEMENTED)


def counted(calls, what, number):
    """Waits until the server has counted this many calls."""
    until = time.monotonic() + 10
    while (found := int(calls.uu_Unary(b"count " + what))) != number:
        assert found < number and time.monotonic() < until, f"{what}: {found}, expected {number}"
        time.sleep(0.05)


def deadlines(calls):
    left = float(calls.uu_Unary(b"time?", timeout=20))
    assert 15 < left <= 20, left
    began = time.monotonic()
    error = failure(lambda: calls.uu_WaitUnary(b"", timeout=1))
    same(error.code(), StatusCode.DEADLINE_EXCEEDED)
    error = failure(lambda: calls.us_WaitStream(b"", timeout=1))
    same(error.code(), StatusCode.DEADLINE_EXCEEDED)
    assert time.monotonic() - began < 10
    counted(calls, b"cancelled", 2)


def cancels(calls):
    call = calls.us_WaitStream(b"")
    same(next(call), b"begun")
    # The server would not count a call that is cancelled before it waits.
    counted(calls, b"waiting", 1)
    call.cancel()
    same(failure(lambda: call).code(), StatusCode.CANCELLED)
    counted(calls, b"cancelled", 1)
    script = Script()
    call = calls.ss_WaitEcho(script)
    script.send(b"abc")
    same(next(call), b"abc")
    counted(calls, b"waiting", 2)
    call.cancel()
    same(failure(lambda: call).code(), StatusCode.CANCELLED)
    counted(calls, b"cancelled", 2)
    call = calls.uu_WaitUnary.future(b"")
    counted(calls, b"waiting", 3)
    call.cancel()
    counted(calls, b"cancelled", 3)


def one(calls, code, details, *metadata):
    """Makes one call, which must fail with this code and these details."""
    metadata = [tuple(field.split("=", 1)) for field in metadata]
    error = failure(lambda: calls.uu_Unary(b"abc", metadata=metadata, timeout=20))
    same((error.code().name, error.details()), (code, details))
    error = failure(lambda: calls.ss_Echo(iter([b"abc"]), metadata=metadata, timeout=20))
    same((error.code().name, error.details()), (code, details))
    print(dict(error.initial_metadata() or ()), dict(error.trailing_metadata() or ()))


def main(roots, port, group, *args):
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    if roots == "-":
        channel = grpc.insecure_channel(f"127.0.0.1:{port}", options)
    else:
        with open(roots, "rb") as roots:
            credentials = grpc.ssl_channel_credentials(roots.read())
        channel = grpc.secure_channel(f"localhost:{port}", credentials, options)
    with channel:
        globals()[group](Calls(channel), *args)


main(*sys.argv[1:])
