"""Tests a running server with the client that openapi-python-client generated in weft_api: a chat answer, a streamed
chunk, the adapters. It reads SERVER_URL and keys from the environment, and exits with 0 or an assertion."""

import json
import os

from weft_api import AuthenticatedClient
from weft_api.api.default import create_chat_completion, list_adapters, list_models
from weft_api.models import AdapterList, ChatChunk, ChatRequest, ChatResponse, Error, ModelList

URL = os.environ["SERVER_URL"]
client = AuthenticatedClient(base_url=URL, token=os.environ["KEY_ACME"], timeout=120)
admin = AuthenticatedClient(base_url=URL, token=os.environ["KEY_ADMIN"])
ASK = {"messages": [{"role": "user", "content": "What is 2+2?"}], "temperature": 0, "max_tokens": 16, "logprobs": True,
       "top_logprobs": 2}

answer = create_chat_completion.sync(client=client, body=ChatRequest.from_dict(ASK))
assert isinstance(answer, ChatResponse), answer
choice = answer.choices[0]
assert choice.message.content and choice.finish_reason == "stop" and answer.usage.completion_tokens > 4, answer
assert len(choice.logprobs.content[0].top_logprobs) == 2, choice.logprobs

text, usage = "", None
with client.get_httpx_client().stream("POST", "/v1/chat/completions", json={**ASK, "stream": True,
                                      "stream_options": {"include_usage": True}}) as response:
    for line in response.iter_lines():
        data = line.removeprefix("data: ")
        if data and data != "[DONE]":
            chunk = ChatChunk.from_dict(json.loads(data))
            text += "".join(c.delta.content or "" for c in chunk.choices)
            usage = chunk.usage or usage
assert text == choice.message.content, (text, answer)
assert usage.completion_tokens == answer.usage.completion_tokens, usage

refused = create_chat_completion.sync(client=client, body=ChatRequest.from_dict({**ASK, "temperature": 9}))
assert isinstance(refused, Error) and refused.error.param == "temperature", refused

models = list_models.sync(client=client)
assert isinstance(models, ModelList) and {"assistant", "own"} < {m.id for m in models.data}, models
adapters = list_adapters.sync(client=admin, tenant="acme")
assert isinstance(adapters, AdapterList), adapters
assert {(a.name, tuple(a.tags)) for a in adapters.adapters} == {("assistant", ("v1",)), ("own", ())}, adapters
foreign = list_adapters.sync(client=admin, tenant="globex")
assert isinstance(foreign, Error) and foreign.error.code == "not_found", foreign
print("generated python client ok")
