"""Reads an export request of OpenTelemetry from standard input, and prints it as JSON."""

import json
import sys

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)

request = ExportTraceServiceRequest.FromString(sys.stdin.buffer.read())
message = MessageToDict(request, preserving_proto_field_name=True)
span = request.resource_spans[0].scope_spans[0].spans[0]
ids = [span.trace_id, span.span_id, span.parent_span_id]
message["resource_spans"][0]["scope_spans"][0]["spans"][0]["ids"] = [
    one.hex() for one in ids
]
json.dump(message, sys.stdout)
