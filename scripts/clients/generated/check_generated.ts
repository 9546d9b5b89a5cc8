// Tests a running server with the types that openapi-typescript generated in api.d.ts: a chat answer, a streamed chunk,
// the adapters. It reads SERVER_URL and keys from the environment, and exits with 0 or an assertion.
import assert from 'node:assert/strict';
import createClient from 'openapi-fetch';
import type { components, paths } from './api.js';

const client = (key: string) => createClient<paths>({ baseUrl: process.env.SERVER_URL,
  headers: { Authorization: `Bearer ${key}` } });
const acme = client(process.env.KEY_ACME!), admin = client(process.env.KEY_ADMIN!);
const body: components['schemas']['ChatRequest'] = { messages: [{ role: 'user', content: 'What is 2+2?' }],
  temperature: 0, max_tokens: 16 };

const { data: answer } = await acme.POST('/v1/chat/completions', { body });
assert.ok(answer && 'choices' in answer); // not an event of a stream
const want: string = answer.choices[0].message.content;
assert.ok(want.length > 0 && answer.usage.completion_tokens > 4);

const { response } = await acme.POST('/v1/chat/completions', { body: { ...body, stream: true },
  parseAs: 'stream' });
let text = '', rest = '';
const decoder = new TextDecoder();
for await (const bytes of response.body as unknown as AsyncIterable<Uint8Array>) {
  const lines = (rest + decoder.decode(bytes, { stream: true })).split('\n');
  rest = lines.pop()!;
  for (const line of lines) {
    if (!line.startsWith('data: {')) continue;
    const chunk = JSON.parse(line.slice(6)) as components['schemas']['ChatChunk'];
    text += chunk.choices[0]?.delta.content ?? '';
  }
}
assert.equal(text, want);

const { error } = await acme.POST('/v1/chat/completions', { body: { ...body, temperature: 9 } });
assert.equal(error?.error.param, 'temperature');
const { data: list } = await admin.GET('/admin/v1/tenants/{tenant}/adapters',
  { params: { path: { tenant: 'acme' } } });
assert.deepEqual(list?.adapters.map((a) => a.name).sort(), ['assistant', 'own']);
console.log('generated typescript client ok');
