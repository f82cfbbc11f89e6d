// Asks for embeddings with OpenAI's Node SDK: a list of questions as JSON on stdin, the list of what its caller sees on
// stdout. embeddings_test.go tells the shapes.
import OpenAI from 'openai';
import { text } from 'node:stream/consumers';

async function ask(q) {
  const client = new OpenAI({ baseURL: q.base_url, apiKey: q.key, defaultHeaders: q.header });
  const params = { model: q.model, input: q.input };
  if (q.dimensions) params.dimensions = q.dimensions;
  if (q.encoding_format) params.encoding_format = q.encoding_format;
  try {
    const { data, response, request_id } = await client.embeddings.create(params).withResponse();
    return {
      request_id, model: data.model, usage: data.usage, warning: response.headers.get('x-threadhub-warning') ?? '',
      vectors: data.data.map((e) => (typeof e.embedding === 'string' ? [] : Array.from(e.embedding))),
      packed: data.data.map((e) => (typeof e.embedding === 'string' ? e.embedding : '')),
      indexes: data.data.map((e) => e.index),
    };
  } catch (e) {
    if (!(e instanceof OpenAI.APIError)) throw e;
    return { request_id: e.requestID ?? '', err: { class: e.constructor.name, status: e.status ?? 0, code: e.code ?? '', param: e.param ?? '' } };
  }
}

async function models(q) {
  const client = new OpenAI({ baseURL: q.base_url, apiKey: q.key });
  const names = [];
  for await (const m of client.models.list()) names.push(m.id);
  const one = await client.models.retrieve(q.model);
  return { names, model: one.id };
}

const questions = JSON.parse(await text(process.stdin));
const answers = await Promise.all(questions.map((q) => (q.input ? ask(q) : models(q))));
process.stdout.write(JSON.stringify(answers));
