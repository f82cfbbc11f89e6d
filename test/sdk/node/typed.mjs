// Asks for recorded answers with OpenAI's Node SDK and tells what the SDK made of them: a job is a line of JSON on stdin,
// its result a line on stdout, in no order. typed_test.go tells the shapes.
import OpenAI from 'openai';
import { createInterface } from 'node:readline';

// told is an error as a program that catches it sees it. What leads to another request (its headers) is told, too, and
// what the answer's error object has beside the SDK's own fields.
function told(e) {
  if (!(e instanceof OpenAI.OpenAIError)) return { class: `not one of the SDK's errors: ${e.stack}` };
  const { message, type, param, code, ...more } = e.error ?? {};
  const header = (name) => e.headers?.get?.(name) ?? undefined;
  return {
    class: e.constructor.name, status: e.status, code: e.code, param: e.param, type: e.type, message: message ?? e.message, ...more, request_id: e.requestID,
    retry_after: header('retry-after'), retry_after_ms: header('retry-after-ms'), should_retry: header('x-should-retry'),
  };
}

async function whole(client, body, out) {
  out.completion = await client.chat.completions.create(body);
  out.request_id = out.completion._request_id;
}

async function streamed(client, body, out) {
  out.chunks = [];
  for await (const chunk of await client.chat.completions.create(body)) out.chunks.push(chunk);
}

// accumulated is the same by way of the SDK's helper, which puts the message together.
async function accumulated(client, body, out) {
  try {
    out.final = await client.chat.completions.stream(body).finalChatCompletion();
  } catch (e) {
    out.final = { class: e.constructor.name };
  }
}

async function embeddings(client, { prefix, names, messages, ...body }, out) {
  out.embeddings = await client.embeddings.create(body);
}

// models are those that both sides have; the gateway's may have its provider before the name.
async function models(client, { prefix = '', names }, out) {
  const bare = (id) => (!names.includes(id) && id.startsWith(prefix) ? id.slice(prefix.length) : id);
  const full = (id) => (id.startsWith(prefix) ? id : prefix + id);
  for await (const m of client.models.list()) if (names.includes(bare(m.id))) out[`models[${bare(m.id)}]`] = m;
  for (const name of names) out[`model[${name}]`] = await client.models.retrieve(full(name));
}

const others = { embeddings, models };

async function run(job) {
  const client = new OpenAI({ baseURL: job.base_url, apiKey: job.key, maxRetries: 0 });
  const result = {};
  try {
    if (job.kind) await others[job.kind](client, job.body, result);
    else if (job.body.stream) await accumulated(client, job.body, result);
    if (!job.kind) await (job.body.stream ? streamed : whole)(client, job.body, result);
  } catch (e) {
    result.error = told(e);
  }
  process.stdout.write(JSON.stringify({ n: job.n, result }) + '\n');
}

createInterface({ input: process.stdin }).on('line', (line) => run(JSON.parse(line)));
