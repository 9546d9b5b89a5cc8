// Tests what a server stores for the tenant acme with the official OpenAI Node client: BASE_URL and KEY_ACME from the
// environment, then exit 0 or an assertion.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const acme = new OpenAI({baseURL: process.env.BASE_URL, apiKey: process.env.KEY_ACME, maxRetries: 0});
const completions = acme.chat.completions;
const mark = `node-${process.hrtime.bigint()}`;
const ids = [];
for (let i = 0; i < 3; i++) {
  const answer = await completions.create({
    model: 'assistant', messages: [{role: 'user', content: 'What is 2+2?'}], temperature: 0, max_tokens: 8, store: true,
    metadata: {mark},
  });
  ids.push(answer.id);
}
const found = [];
for await (const one of completions.list({limit: 2, metadata: {mark}})) found.push(one.id);
assert.deepEqual(found, ids);
assert.equal((await completions.retrieve(ids[0])).metadata.mark, mark);
const said = await completions.messages.list(ids[0]);
assert.deepEqual(said.data.map((m) => [m.role, m.content]), [['user', 'What is 2+2?']]);
assert.equal((await completions.update(ids[0], {metadata: {topic: 'a'}})).metadata.topic, 'a');
assert.equal((await acme.post('/feedback', {body: {id: ids[0], value: true}})).id, ids[0]);
assert.equal((await completions.delete(ids[0])).deleted, true);
await assert.rejects(completions.retrieve(ids[0]), OpenAI.NotFoundError);
console.log('node client and stored completions ok');
