// Does jobs with OpenAI's Node SDK: a job is a line of JSON on stdin, its result a line on stdout. Jobs run side by side;
// the end of stdin ends the process. job_test.go tells the shapes.
import OpenAI from 'openai';
import { createInterface } from 'node:readline';

const weather = {
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'], additionalProperties: false },
  strict: true,
};

const weatherIn = ({ city }) => `21 degrees in ${city}`;

// clients are kept by key and address, as an application would.
const clients = new Map();

function client(job) {
  const name = `${job.base_url} ${job.key}`;
  if (!clients.has(name)) clients.set(name, new OpenAI({ baseURL: job.base_url, apiKey: job.key }));
  return clients.get(name);
}

function options(job) {
  const o = { headers: job.header };
  if (job.timeout_ms) o.timeout = job.timeout_ms;
  if (job.max_retries !== undefined) o.maxRetries = job.max_retries;
  return o;
}

function params(job) {
  const p = { model: job.model, messages: job.messages };
  if (job.temperature !== undefined) p.temperature = job.temperature;
  if (job.schema) p.response_format = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema: job.schema } };
  return p;
}

function usageOf(u) {
  return u && {
    prompt_tokens: u.prompt_tokens, completion_tokens: u.completion_tokens, total_tokens: u.total_tokens,
    cost_usd: u.cost_usd ?? '', cost_status: u.cost_status ?? '',
  };
}

function told(out, completion) {
  const [choice] = completion.choices;
  out.text = choice.message.content ?? '';
  out.finish = choice.finish_reason ?? '';
  out.model = completion.model;
  out.usage = usageOf(completion.usage);
  return choice.message;
}

function answered(out, { response, request_id }) {
  out.request_id = request_id ?? '';
  out.header = Object.fromEntries(response.headers);
}

const jobs = {
  async chat(job, out) {
    const { data, ...raw } = await client(job).chat.completions.create(params(job), options(job)).withResponse();
    answered(out, raw);
    if (data._request_id !== out.request_id) throw new Error(`_request_id is ${data._request_id}`);
    told(out, data);
  },

  async stream(job, out) {
    const p = { ...params(job), stream: true };
    if (job.include_usage) p.stream_options = { include_usage: true };
    const o = options(job);
    if (job.deadline_ms) o.signal = AbortSignal.timeout(job.deadline_ms);
    const { data, ...raw } = await client(job).chat.completions.create(p, o).withResponse();
    answered(out, raw);
    for await (const chunk of data) {
      out.model = chunk.model;
      const [choice] = chunk.choices;
      out.text += choice?.delta?.content ?? '';
      if (choice?.finish_reason) out.finish = choice.finish_reason;
      if (chunk.usage) {
        out.usage = usageOf(chunk.usage);
        out.usages++;
      }
    }
    // What the caller's own signal ended ends without an error in this SDK.
    if (o.signal?.aborted) out.err = { class: 'deadline', message: 'aborted' };
  },

  async parse(job, out) {
    const completion = await client(job).chat.completions.parse(params(job), options(job));
    out.request_id = completion._request_id ?? '';
    out.parsed = told(out, completion).parsed;
  },

  async tools(job, out) {
    const tool = { type: 'function', function: { ...weather, parse: JSON.parse, function: (args) => call(args) } };
    const call = (args) => {
      out.calls.push({ name: weather.name, args, result: weatherIn(args) });
      return weatherIn(args);
    };
    const runner = client(job).chat.completions.runTools({ ...params(job), tools: [tool] }, options(job));
    told(out, await runner.finalChatCompletion());
    const ids = runner.messages.flatMap((m) => (m.tool_calls ?? []).map((c) => c.id));
    out.calls.forEach((c, i) => (c.id = ids[i] ?? ''));
  },

  async tools_stream(job, out) {
    const messages = [...job.messages];
    const body = { ...params(job), tools: [{ type: 'function', function: weather }], stream_options: { include_usage: true } };
    for (;;) {
      const stream = client(job).chat.completions.stream({ ...body, messages }, options(job));
      const m = told(out, await stream.finalChatCompletion());
      if (!m.tool_calls?.length) return;
      if (job.thin) messages.length = 0;
      else messages.push({ role: 'assistant', content: m.content, tool_calls: m.tool_calls.map(({ id, type, function: f }) => ({ id, type, function: { name: f.name, arguments: f.arguments } })) });
      for (const c of m.tool_calls) {
        const args = JSON.parse(c.function.arguments);
        out.calls.push({ id: c.id, name: c.function.name, args, result: weatherIn(args) });
        messages.push({ role: 'tool', tool_call_id: c.id, content: weatherIn(args) });
      }
    }
  },
};

async function run(job) {
  const out = { n: job.n, text: '', finish: '', model: '', request_id: '', header: {}, usage: null, usages: 0, calls: [], err: null };
  try {
    await jobs[job.do](job, out);
  } catch (e) {
    if (!(e instanceof OpenAI.OpenAIError)) e.message = `not one of the SDK's errors: ${e.stack}`;
    out.err = {
      class: e.constructor.name, status: e.status ?? 0, type: e.type ?? '', param: e.param ?? '', code: String(e.code ?? ''), message: e.message,
    };
    if (e.requestID) out.request_id = e.requestID;
  }
  process.stdout.write(JSON.stringify(out) + '\n');
}

createInterface({ input: process.stdin }).on('line', (line) => run(JSON.parse(line)));
