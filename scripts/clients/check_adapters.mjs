// Tests a server with two tenants, each with an adapter `assistant`, with the official OpenAI Node client. It reads
// BASE_URL and keys from the environment, and exits with 0 or an assertion.
import assert from 'node:assert/strict';
import OpenAI from 'openai';

const client = (apiKey) => new OpenAI({ baseURL: process.env.BASE_URL, apiKey, maxRetries: 0 });
const acme = client(process.env.KEY_ACME), globex = client(process.env.KEY_GLOBEX);
const small = client(process.env.KEY_SMALL);
const ask = { messages: [{ role: 'user', content: 'What is 2+2?' }], temperature: 0, max_tokens: 16 };
const base = (await acme.models.list()).data[0].id;

async function answer(c, more) {
  const { data, response } = await c.chat.completions.create({ model: 'assistant', ...ask, ...more }).withResponse();
  return { text: data.choices[0].message.content, adapter: response.headers.get('x-weft-adapter'), model: data.model };
}

// One name, two tenants: each gets answers of its own adapter.
const texts = new Set();
for (const [name, c] of Object.entries({ acme, globex })) {
  const own = await answer(c);
  assert.ok(own.adapter.startsWith(`${name}/assistant@`) && own.model === 'assistant', JSON.stringify(own));
  assert.deepEqual(await answer(c, { model: undefined, adapter_id: 'assistant@v1' }), own);
  let streamed = '';
  const stream = await c.chat.completions.create({ model: 'assistant', stream: true, ...ask });
  for await (const chunk of stream) streamed += chunk.choices[0]?.delta?.content ?? '';
  assert.equal(streamed, own.text);
  texts.add(own.text);
}
const plain = await answer(acme, { model: base });
assert.equal(plain.adapter, null);
assert.equal(texts.add(plain.text).size, 3);
const mixed = await answer(acme, { model: base, lora: [{ id: 'assistant', scale: 0.5 }, { id: 'own', scale: 0.5 }] });
assert.equal(mixed.adapter.split('acme/').length, 3);

// Each tenant lists and finds only its own adapters.
const listed = (await acme.models.list()).data;
assert.deepEqual(listed.map((m) => [m.id, m.parent]), [[base, null], ['assistant', base], ['own', base]]);
assert.deepEqual((await globex.models.list()).data.map((m) => m.id), [base, 'assistant']);
await assert.rejects(globex.chat.completions.create({ model: 'own', ...ask }),
  (e) => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
await assert.rejects(globex.models.retrieve('own'), (e) => e instanceof OpenAI.NotFoundError);

// Keys and quotas.
await assert.rejects(client('weft-unknown').models.list(), (e) => e instanceof OpenAI.AuthenticationError);
assert.equal((await fetch(`${process.env.BASE_URL}/models`)).status, 401);
await assert.rejects(acme.post('/load_lora_adapter', { body: { lora_name: 'x', lora_path: '/x' } }),
  (e) => e instanceof OpenAI.PermissionDeniedError);
await small.chat.completions.create({ model: base, ...ask });
await assert.rejects(small.chat.completions.create({ model: base, ...ask }),
  (e) => e instanceof OpenAI.RateLimitError && e.code === 'rate_limit_exceeded' &&
  Number(e.headers.get('retry-after')) > 0);
console.log('node client with adapters ok');
