"""Tests a running server with the official OpenAI Python client: BASE_URL, then exit 0 or an assertion."""

import concurrent.futures
import os

import openai
from openai import OpenAI

client = OpenAI(base_url=os.environ["BASE_URL"], api_key="unused", max_retries=0, timeout=120)
SUM = [{"role": "user", "content": "What is 2+2?"}]


def expect(error, call):
    try:
        call()
    except error as e:
        return e
    raise AssertionError(f"expected {error.__name__}")


model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

answer = client.chat.completions.create(model=model, messages=SUM, temperature=0, max_tokens=32)
WANT = answer.choices[0].message.content
assert "4" in WANT and answer.choices[0].finish_reason == "stop", answer
assert answer.usage.prompt_tokens > 10 and 4 < answer.usage.completion_tokens < 32, answer

text, usage, roles, finish = "", None, [], None
for chunk in client.chat.completions.create(
    model=model, messages=SUM, temperature=0, max_tokens=32, stream=True, stream_options={"include_usage": True}
):
    if chunk.usage:
        usage = chunk.usage
    for c in chunk.choices:
        text += c.delta.content or ""
        roles += [c.delta.role] if c.delta.role else []
        finish = c.finish_reason or finish
assert (text, roles, finish) == (answer.choices[0].message.content, ["assistant"], "stop"), (text, roles, finish)
assert usage.total_tokens == answer.usage.total_tokens, usage

many = client.chat.completions.create(model=model, messages=SUM, n=3, seed=7, temperature=1, max_tokens=8,
    logprobs=True, top_logprobs=2)
assert [c.index for c in many.choices] == [0, 1, 2]
assert all(len(t.top_logprobs) == 2 and t.logprob <= 0 for c in many.choices for t in c.logprobs.content)
again = client.chat.completions.create(model=model, messages=SUM, n=3, seed=7, temperature=1, max_tokens=8)
assert [c.message.content for c in many.choices] == [c.message.content for c in again.choices], "a seed repeats"

stopped = client.chat.completions.create(model=model, messages=SUM, temperature=0, stop=[WANT[12:18]], max_tokens=32)
assert stopped.choices[0].message.content == WANT[: WANT.index(WANT[12:18])], stopped

score = client.completions.create(model=model, prompt="The capital of France is Paris", max_tokens=0, echo=True,
    logprobs=1)
lp = score.choices[0].logprobs
assert lp.token_logprobs[0] is None and all(x < 0
    for x in lp.token_logprobs[1:]) and "".join(lp.tokens) == "The capital of France is Paris", lp
both = client.completions.create(model=model, prompt=["Once upon a time", "def add(a, b):"], max_tokens=4,
    temperature=0)
assert [c.index for c in both.choices] == [0, 1]

with concurrent.futures.ThreadPoolExecutor(16) as pool:
    texts = list(pool.map(lambda _: client.chat.completions.create(model=model, messages=SUM, temperature=0,
        max_tokens=32).choices[0].message.content, range(16)))
assert set(texts) == {WANT}, texts

expect(openai.NotFoundError, lambda: client.chat.completions.create(model="no-such-model", messages=SUM))
e = expect(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=SUM, temperature=9))
assert "temperature" in e.message, e
expect(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=[]))
expect(openai.BadRequestError, lambda: client.chat.completions.create(model=model, messages=SUM,
    response_format={"type": "json_object"}))
print("python client", openai.__version__, "ok")
