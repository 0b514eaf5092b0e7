"""A client that knows nothing of Polymath but an address: everything else it asks the server for.

Usage: grpc_client.py HOST:PORT EXPERT
"""

import sys

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

address, expert = sys.argv[1:]
channel = grpc.insecure_channel(address)

health = health_pb2_grpc.HealthStub(channel)
for service in ["", "polymath.v1.Control", "polymath.v1.Expert"]:
    answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING, answer

database = ProtoReflectionDescriptorDatabase(channel)
assert "polymath.v1.Control" in database.get_services(), database.get_services()
control = DescriptorPool(database).FindServiceByName("polymath.v1.Control")


def call(name, timeout=60, compression=None, **fields):
    method = control.methods_by_name[name]
    request = message_factory.GetMessageClass(method.input_type)(version=1, **fields)
    reply = message_factory.GetMessageClass(method.output_type)
    kind = channel.unary_stream if method.server_streaming else channel.unary_unary
    stub = kind(
        f"/polymath.v1.Control/{name}",
        request_serializer=lambda m: m.SerializeToString(),
        response_deserializer=reply.FromString,
    )
    return stub(request, timeout=timeout, compression=compression)


assert call("Status").peer
assert call("Status", compression=grpc.Compression.Gzip).peer
experts = [e.name for e in call("Experts").experts]
assert expert in experts, experts

text, done = "", None
question = [{"role": "ROLE_USER", "content": "How do I boil an egg?"}]
for event in call("Ask", kind="generate", messages=question, sampling={"max_tokens": 8}):
    which = event.WhichOneof("event")
    assert which != "failed", event
    if which == "tokens":
        text += event.tokens.text
    if which == "done":
        done = event.done
assert done is not None and done.expert == expert and text, (done, text)

# What fails ends in a status.
try:
    list(call("Ask", kind="generate", messages=question, model="nobody"))
    raise AssertionError("an unknown expert answered")
except grpc.RpcError as failed:
    assert failed.code() == grpc.StatusCode.NOT_FOUND, failed
    assert "nobody" in failed.details()

# The experts themselves, as peers ask them.
assert set(database.get_services()) >= {"polymath.v1.Expert"}, database.get_services()
assert "polymath.v1.Catalog" not in database.get_services(), database.get_services()
described = DescriptorPool(database).FindServiceByName("polymath.v1.Expert")
method = described.methods_by_name["Describe"]
stub = channel.unary_unary(
    "/polymath.v1.Expert/Describe",
    request_serializer=lambda m: m.SerializeToString(),
    response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
)
answer = stub(message_factory.GetMessageClass(method.input_type)(version=1), timeout=60)
assert any(e.ready for e in answer.experts), answer
generate = described.methods_by_name["Generate"]
stub = channel.unary_stream(
    "/polymath.v1.Expert/Generate",
    request_serializer=lambda m: m.SerializeToString(),
    response_deserializer=message_factory.GetMessageClass(generate.output_type).FromString,
)
request = message_factory.GetMessageClass(generate.input_type)(
    version=1,
    expert=next(e.id for e in answer.experts if e.ready),
    messages=question,
    sampling={"max_tokens": 8},
    budget_ms=60_000,
)
assert any(e.WhichOneof("event") == "finished" for e in stub(request, timeout=60))

# What is the owner's stays the owner's.
for name in ["Shutdown", "Pause", "Join", "Invite", "SignAnchors", "Doctor"]:
    try:
        answer = call(name)
        for _ in answer if name == "Doctor" else []:
            pass
        raise AssertionError(f"anybody could call {name}")
    except grpc.RpcError as refused:
        assert refused.code() == grpc.StatusCode.PERMISSION_DENIED, (name, refused)
        assert "Unix socket" in refused.details()
print(text)
