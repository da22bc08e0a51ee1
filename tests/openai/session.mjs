// A conversation held by `RealtimeSession` of the npm package `@openai/agents-realtime`, unmodified.
//
//     node session.mjs HTTP_URL QUESTION.wav
//
// The session is opened with a client secret. It is asked in text, which makes the model call a function; then by voice, and
// spoken over. Prints one JSON object: what the session's own events told.

import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession, tool } from '@openai/agents-realtime';
import { readFileSync } from 'node:fs';
import { z } from 'zod';

const CHUNK_BYTES = 4800; // 100 ms
const [node, question] = process.argv.slice(2);
const pcm = readFileSync(question).subarray(44);

const request = { session: { type: 'realtime', model: 'gpt-realtime' }, expires_after: { anchor: 'created_at', seconds: 60 } };
const made = await fetch(`${node}/v1/realtime/client_secrets`, { method: 'POST', body: JSON.stringify(request) });
const secret = (await made.json()).value;

const found = { secret: secret.slice(0, 3), tools: [], audio_ms: 0, interrupted: 0, errors: [], said: [] };
const weather = tool({
  name: 'get_weather',
  description: 'The weather in a city.',
  parameters: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    found.tools.push(city);
    return `18 degrees and sunny in ${city}`;
  },
});
const agent = new RealtimeAgent({ name: 'Desk', instructions: 'Answer in one sentence.', tools: [weather] });
const transport = new OpenAIRealtimeWebSocket({ url: `${node.replace('http', 'ws')}/v1/realtime` });
const turnDetection = { type: 'server_vad', silenceDurationMs: 300, interruptResponse: true };
const session = new RealtimeSession(agent, {
  transport,
  model: 'gpt-realtime',
  tracingDisabled: true,
  config: { audio: { input: { turnDetection } } },
});

function say(audio, silentChunks) {
  for (let at = 0; at < audio.length; at += CHUNK_BYTES) {
    const chunk = Uint8Array.from(audio.subarray(at, at + CHUNK_BYTES));
    session.sendAudio(chunk.buffer);
  }
  for (let n = 0; n < silentChunks; n += 1) session.sendAudio(new ArrayBuffer(CHUNK_BYTES));
}

let responses = 0;
let spokenOver = false;
const over = new Promise((resolve) => {
  session.on('error', (event) => found.errors.push(JSON.stringify(event.error?.error ?? String(event.error))));
  session.on('audio', (event) => {
    found.audio_ms += event.data.byteLength / 48;
    if (responses === 2 && !spokenOver) {
      spokenOver = true;
      say(pcm, 0);
    }
  });
  session.on('audio_interrupted', () => {
    found.interrupted += 1;
    say(new Uint8Array(0), 15);
  });
  transport.on('*', (event) => {
    if (event.type === 'response.output_audio_transcript.done') found.said.push(event.transcript);
    if (event.type !== 'response.done') return;
    responses += 1;
    if (responses === 2) say(pcm, 15);
    if (responses === 4) resolve();
  });
});
await session.connect({ apiKey: secret });
session.sendMessage('How warm is it in Paris?');
await over;
session.close();
console.log(JSON.stringify(found));
process.exit(0);
