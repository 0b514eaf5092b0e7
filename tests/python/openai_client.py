"""The openai package against a node's API. Usage: openai_client.py BASE_URL; exits 0 if all holds."""

import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=120)

models = [m.id for m in client.models.list()]
assert "auto" in models and "chef" in models, models
assert client.models.retrieve("chef").id == "chef"

messages = [{"role": "user", "content": "How do I boil an egg?"}]
raw = client.chat.completions.with_raw_response.create(
    model="auto", messages=messages, max_tokens=24, temperature=0, seed=7
)
plain = raw.parse()
text = plain.choices[0].message.content
assert plain.object == "chat.completion" and plain.model == "chef", plain
assert text and plain.choices[0].message.role == "assistant", plain
assert plain.choices[0].finish_reason in ("stop", "length"), plain
assert plain.usage.completion_tokens > 0, plain.usage
assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens
assert raw.headers["x-polymath-expert"] == "chef" and raw.headers["x-request-id"], raw.headers

stream = client.chat.completions.create(
    model="chef", messages=messages, max_tokens=24, temperature=0, seed=7,
    stream=True, stream_options={"include_usage": True},
)
pieces, reason, usage, roles = [], None, None, []
for chunk in stream:
    assert chunk.object == "chat.completion.chunk"
    if chunk.usage:
        assert not chunk.choices
        usage = chunk.usage
    for choice in chunk.choices:
        roles.append(choice.delta.role)
        pieces.append(choice.delta.content or "")
        reason = choice.finish_reason or reason
assert "".join(pieces) == text, ("".join(pieces), text)
assert len([p for p in pieces if p]) > 1, "the answer came in one piece"
assert reason == plain.choices[0].finish_reason and usage == plain.usage, (reason, usage)
assert roles[0] == "assistant"

# A part of the answer as a stop sequence ends it there.
stop = text.split()[2]
stopped = client.chat.completions.create(
    model="chef", messages=messages, max_tokens=24, temperature=0, stop=[stop]
)
assert stop not in stopped.choices[0].message.content, stopped
assert stopped.choices[0].finish_reason == "stop"

parts = [{"role": "system", "content": "Be brief."},
         {"role": "user", "content": [{"type": "text", "text": "How do I boil an egg?"}]}]
assert client.chat.completions.create(model="chef", messages=parts, max_tokens=4).usage.completion_tokens <= 4


def refused(kind, words, **request):
    try:
        client.chat.completions.create(**{"model": "auto", "messages": messages, **request})
    except kind as error:
        assert words in str(error), error
        return error
    raise AssertionError(f"{request} was taken")


refused(openai.NotFoundError, "chef", model="chefs")
assert refused(openai.BadRequestError, "context", messages=[{"role": "user", "content": "egg " * 20000}]).code == "context_length_exceeded"
assert refused(openai.BadRequestError, "not supported", n=2).param == "n"
refused(openai.BadRequestError, "tools", tools=[{"type": "function", "function": {"name": "f"}}])
refused(openai.BadRequestError, "frequency_penalty", frequency_penalty=1)
refused(openai.BadRequestError, "response_format", response_format={"type": "json_object"})
assert refused(openai.NotFoundError, "chefs", model="chefs", extra_headers={"x-request-id": "mine"}).response.headers["x-request-id"] == "mine"
refused(openai.BadRequestError, "temperature", temperature=9)
refused(openai.BadRequestError, "message", messages=[])
print("all of it holds")
