"""Calls the Workload API with grpcio at each target of the command line, and prints the size of the answer.

A target may be followed by "=" and the :authority to send. The second call on a connection refers to the fields
of the first one by number.
"""

import sys

import grpc


def call(channel, rpc):
    method = channel.unary_stream(
        "/SpiffeWorkloadAPI/" + rpc,
        request_serializer=lambda message: message,
        response_deserializer=lambda message: message,
    )
    metadata = (("workload.spiffe.io", "true"),)
    messages = method(b"", metadata=metadata, timeout=20)
    return len(next(messages))


for argument in sys.argv[1:]:
    target, _, authority = argument.partition("=")
    options = [("grpc.default_authority", authority)] if authority else []
    with grpc.insecure_channel(target, options) as channel:
        sizes = [call(channel, "FetchX509SVID"), call(channel, "FetchX509Bundles")]
    print(argument, *sizes, flush=True)
