// Tests a running server with the official OpenAI Node client: BASE_URL, then exit 0 or an assertion.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: 'unused', maxRetries: 0 });
const messages = [{ role: 'user', content: 'What is 2+2?' }];

const model = (await client.models.list()).data[0].id;
const answer = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 32 });
const want = answer.choices[0].message.content;
assert.match(want, /4/);
assert.equal(answer.choices[0].finish_reason, 'stop');

let text = '';
const stream = await client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 32, stream: true,
  stream_options: { include_usage: true } });
let usage;
for await (const chunk of stream) {
  text += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(text, want);
assert.equal(usage.completion_tokens, answer.usage.completion_tokens);

// A client that disconnects early does not disturb other requests.
const left = await client.chat.completions.create({ model, max_tokens: 400, stream: true,
  messages: [{ role: 'user', content: 'Tell me a long story.' }] });
for await (const _ of left) break;
left.controller.abort();

const runner = client.chat.completions.stream({ model, messages, temperature: 0, max_tokens: 32 });
assert.equal(await runner.finalContent(), want);

const completion = await client.completions.create({ model, prompt: 'Once upon a time', max_tokens: 4,
  temperature: 0 });
assert.ok(completion.choices[0].text.length > 0);
await assert.rejects(client.chat.completions.create({ model: 'no-such-model', messages }),
  (e) => e instanceof OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model, messages, top_p: 7 }),
  (e) => e instanceof OpenAI.BadRequestError && /top_p/.test(e.message));
console.log('node client ok');
