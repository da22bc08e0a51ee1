// A conversation held by `OpenAIRealtimeWS` of the npm package `openai`, unmodified, over wss:// with the node's own authority in
// NODE_EXTRA_CA_CERTS.
//
//     node realtime_ws.mjs HTTPS_URL KEY QUESTION.wav
//
// Prints one JSON object: the models that are listed, what was heard, what was answered and with how much audio.

import OpenAI from 'openai';
import { OpenAIRealtimeWS } from 'openai/realtime/ws';
import { readFileSync } from 'node:fs';

const [node, apiKey, question] = process.argv.slice(2);
const client = new OpenAI({ apiKey, baseURL: `${node}/v1` });
const found = { models: [], heard: [], answers: [], audio_ms: 0, errors: [] };
for await (const model of client.models.list()) found.models.push(model.id);

const refused = new OpenAI({ apiKey: 'another key of as many bytes as it has', baseURL: `${node}/v1`, maxRetries: 0 });
found.refused = await refused.models.list().then(() => null, (error) => error.status);

const call = new OpenAIRealtimeWS({ model: 'gpt-realtime' }, client);
const over = new Promise((resolve) => {
  call.on('error', (error) => { found.errors.push(error.message); resolve(); });
  call.on('session.created', () => {
    const detection = { type: 'server_vad', silence_duration_ms: 300 };
    call.send({ type: 'session.update', session: { type: 'realtime', audio: { input: { turn_detection: detection } } } });
  });
  call.on('session.updated', () => {
    const pcm = Buffer.concat([readFileSync(question).subarray(44), Buffer.alloc(48_000)]);
    for (let at = 0; at < pcm.length; at += 4800) {
      call.send({ type: 'input_audio_buffer.append', audio: pcm.subarray(at, at + 4800).toString('base64') });
    }
  });
  call.on('conversation.item.input_audio_transcription.completed', (event) => found.heard.push(event.transcript));
  call.on('response.output_audio.delta', (event) => { found.audio_ms += Buffer.from(event.delta, 'base64').length / 48; });
  call.on('response.output_audio_transcript.done', (event) => found.answers.push(event.transcript));
  call.on('response.done', resolve);
});
await over;
call.close();
console.log(JSON.stringify(found));
process.exit(0);
