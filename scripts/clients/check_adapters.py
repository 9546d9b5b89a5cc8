"""Tests a server with two tenants, each with an adapter `assistant`, with the official OpenAI Python client. It reads
BASE_URL and keys from the environment, and exits with 0 or an assertion."""

import os
import urllib.error
import urllib.request

import openai
from openai import OpenAI

URL = os.environ["BASE_URL"]
ASK = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0, "max_tokens": 16}


def client(key):
    return OpenAI(base_url=URL, api_key=key, max_retries=0, timeout=120)


def expect(error, call):
    try:
        call()
    except error as e:
        return e
    raise AssertionError(f"expected {error.__name__}")


acme, globex, small = client(os.environ["KEY_ACME"]), client(os.environ["KEY_GLOBEX"]), client(os.environ["KEY_SMALL"])
base = acme.models.list().data[0].id


def answer(c, **more):
    raw = c.chat.completions.with_raw_response.create(**{"model": "assistant", **ASK, **more})
    return raw.parse().choices[0].message.content, raw.headers.get("x-weft-adapter"), raw.parse().model


# One name, two tenants: each gets answers of its own adapter.
texts = {}
for name, c in {"acme": acme, "globex": globex}.items():
    text, adapter, model = answer(c)
    assert adapter.startswith(f"{name}/assistant@") and model == "assistant", (adapter, model)
    assert answer(c, model=f"{base}:assistant") == (text, adapter, "assistant")
    assert answer(c, model=openai.omit, extra_body={"adapter_id": "assistant@v1"}) == (text, adapter, "assistant")
    streamed = "".join(x.choices[0].delta.content or "" for x in c.chat.completions.create(model="assistant",
        stream=True, **ASK) if x.choices)
    assert streamed == text, (streamed, text)
    texts[name] = text
plain, adapter, model = answer(acme, model=base)
assert adapter is None and model == base and len({plain, *texts.values()}) == 3, (plain, texts)
assert answer(globex, model=base)[0] == plain
mixed, adapter, _ = answer(acme, model=base, extra_body={"lora": [{"id": "assistant", "scale": 0.5},
    {"id": "own", "scale": 0.5}]})
assert adapter.count("acme/") == 2 and ";scale=0.5" in adapter, adapter

# Each tenant lists and finds only its own adapters.
listed = {m.id: m for m in acme.models.list()}
assert set(listed) == {base, "assistant", "own"}, listed
assert listed["own"].parent == base and listed["own"].owned_by == "acme" and listed[base].parent is None, listed
assert [m.id for m in globex.models.list()] == [base, "assistant"]
assert acme.models.retrieve("own").parent == base
foreign = expect(openai.NotFoundError, lambda: globex.chat.completions.create(model="own", **ASK))
absent = expect(openai.NotFoundError, lambda: globex.chat.completions.create(model="xxx", **ASK))
assert foreign.code == absent.code == "model_not_found" and foreign.message.replace("own",
    "xxx") == absent.message, (foreign, absent)
expect(openai.NotFoundError, lambda: globex.models.retrieve("own"))

# Keys and quotas.
expect(openai.AuthenticationError, lambda: client("weft-unknown").models.list())
try:
    urllib.request.urlopen(URL + "/models")
    raise AssertionError("expected 401 without a key")
except urllib.error.HTTPError as e:
    assert e.code == 401, e
expect(openai.PermissionDeniedError, lambda: acme.post("/load_lora_adapter", cast_to=object,
    body={"lora_name": "x", "lora_path": "/x"}))
raw = small.chat.completions.with_raw_response.create(model=base, **ASK)
limit, left = (raw.headers[f"x-ratelimit-{what}-requests"] for what in ("limit", "remaining"))
assert (limit, left) == ("1", "0"), raw.headers
limited = expect(openai.RateLimitError, lambda: small.chat.completions.create(model=base, **ASK))
assert limited.code == "rate_limit_exceeded", limited
assert 0 < int(limited.response.headers["retry-after"]) <= 120, limited.response.headers
print("python client with adapters ok")
