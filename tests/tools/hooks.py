"""What schemathesis has to be told to send bodies that are no JSON."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    """One line of a batch."""
    if isinstance(value, bytes):
        return value
    return json.dumps(value).encode() + b"\n"


@schemathesis.serializer("application/wasm")
def component(ctx, value):
    """Whatever was made up: it is refused as no component."""
    if isinstance(value, bytes):
        return value
    return json.dumps(value).encode()
