"""Tests what a server stores for the tenant acme with the official OpenAI Python client: BASE_URL and keys from the
environment, then exit 0 or an assertion."""

import os
import time

import openai
from openai import OpenAI


def client(key):
    return OpenAI(base_url=os.environ["BASE_URL"], api_key=key, max_retries=0, timeout=120)


def expect(error, call):
    try:
        call()
    except error as e:
        return e
    raise AssertionError(f"expected {error.__name__}")


acme, globex = client(os.environ["KEY_ACME"]), client(os.environ["KEY_GLOBEX"])
ASK = {"model": "assistant", "messages": [{"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 2+2?"}], "temperature": 0, "max_tokens": 8}
mark = f"python-{time.time_ns()}"


def kept(**more):
    return acme.chat.completions.create(**ASK, store=True, safety_identifier="user-1", **more)


answers = [kept(metadata={"mark": mark, "topic": topic}) for topic in ("a", "b", "a")]
id, text = "", ""
for chunk in kept(metadata={"mark": mark, "topic": "a"}, stream=True):
    id, text = chunk.id, text + (chunk.choices[0].delta.content or "")
assert text == answers[0].choices[0].message.content, text
acme.chat.completions.create(**ASK, metadata={"mark": mark})  # not stored
ids = [a.id for a in answers] + [id]

found = [c.id for c in acme.chat.completions.list(limit=2, metadata={"mark": mark})]
assert found == ids, (found, ids)
found = [c.id for c in acme.chat.completions.list(limit=2, order="desc", model="assistant",
    metadata={"mark": mark, "topic": "a"})]
assert found == [ids[3], ids[2], ids[0]], (found, ids)

one = acme.chat.completions.retrieve(ids[3])
assert one.choices[0].message.content == text and one.choices[0].finish_reason == answers[0].choices[0].finish_reason, one
assert one.metadata == {"mark": mark, "topic": "a"} and one.model == "assistant", one
assert one.usage.total_tokens == answers[0].usage.total_tokens, one
said = acme.chat.completions.messages.list(ids[3])
assert [(m.role, m.content) for m in said] == [(m["role"], m["content"]) for m in ASK["messages"]], said
page = acme.chat.completions.messages.list(ids[3], limit=1)
assert page.has_more and [m.content for m in page] == ["Be brief.", "What is 2+2?"], page

changed = acme.chat.completions.update(ids[0], metadata={"mark": mark, "topic": "c"})
assert changed.metadata["topic"] == "c" and acme.chat.completions.retrieve(ids[0]).metadata["topic"] == "c", changed
for body in ({"value": True}, {"value": 0.5, "comment": "good"}, {"demonstration": "4"},
    {"preferred_to": {"id": ids[1]}}):
    taken = acme.post("/feedback", cast_to=object, body={"id": ids[0], **body})
    assert taken["id"] == ids[0], taken
expect(openai.BadRequestError, lambda: acme.post("/feedback", cast_to=object, body={"id": ids[0], "value": 2}))

for call in (lambda: globex.chat.completions.retrieve(ids[0]), lambda: globex.chat.completions.delete(ids[0]),
    lambda: globex.post("/feedback", cast_to=object, body={"id": ids[0], "value": True}),
    lambda: acme.chat.completions.retrieve("chatcmpl-none")):
    assert "no such stored completion" in expect(openai.NotFoundError, call).message
e = expect(openai.BadRequestError, lambda: globex.chat.completions.create(**ASK, store=True))
assert "capture" in e.message, e

gone = acme.chat.completions.delete(ids[0])
assert gone.deleted and gone.id == ids[0], gone
expect(openai.NotFoundError, lambda: acme.chat.completions.retrieve(ids[0]))
assert [c.id for c in acme.chat.completions.list(metadata={"mark": mark})] == ids[1:]
print("python client and stored completions ok")
