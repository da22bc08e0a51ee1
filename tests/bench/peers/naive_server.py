"""A voice server as one writes it in an afternoon: the same models through ONNX Runtime and llama.cpp, one thread pool, every
step of every call on its own, no batching across calls. It speaks as much of the Realtime API as the load generator needs.

Answers that the assistant's file knows are rendered at the start and matched by embedding, as Nearfield does; the language
model's answers are spoken sentence by sentence while the rest is still being written.
"""

import asyncio
import base64
import collections
import concurrent.futures
import json
import re
import sys
import tomllib

import numpy as np
import websockets

import engines

FRAME = 512
SPEECH, SILENCE = 0.5, 0.35
PADDING_SAMPLES = 4800
DELTA_SAMPLES = 4800
HISTORY_MESSAGES = 8
SENTENCE_END = re.compile(r"[.!?]\s")


class Models:
    def __init__(self, files, assistant, threads):
        from llama_cpp import Llama

        self.pool = concurrent.futures.ThreadPoolExecutor()
        self.vad = engines.Silero(files["vad"], 1)
        self.asr = engines.Moonshine(files["asr-encoder"], files["asr-decoder"], files["asr-tokenizer"], threads)
        self.tts = engines.Hibari(files["tts"], threads)
        self.minilm = engines.MiniLm(files["embed"], files["embed-tokenizer"], threads)
        self.llm = Llama(files["llm"], n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
        self.llm_free = asyncio.Lock()
        with open(assistant, "rb") as f:
            self.assistant = tomllib.load(f)
        asked = [(ask, q["answer"]) for q in self.assistant["questions"] for ask in q["ask"]]
        self.known = self.minilm.embed([ask for ask, _ in asked])
        self.answers = [answer for _, answer in asked]
        self.spoken = {answer: self.say(answer) for answer in set(self.answers)}

    async def run(self, work, *args):
        return await asyncio.get_running_loop().run_in_executor(self.pool, work, *args)

    def say(self, text):
        parts = list(self.tts.say(text))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def hear(self, pcm):
        return self.asr.text(self.asr.tokens(pcm))

    def match(self, text):
        likeness = self.known @ self.minilm.embed([text])[0]
        best = int(likeness.argmax())
        return self.answers[best] if likeness[best] >= self.assistant["match_threshold"] else None


class Call:
    def __init__(self, socket, models):
        self.socket, self.models = socket, models
        self.detects, self.silence_ms, self.tokens_max = True, 500, 192
        self.history = collections.deque(maxlen=HISTORY_MESSAGES)
        self.state = models.vad.start()
        self.pending = np.zeros(0, np.float32)
        self.heard = np.zeros(0, np.float32)
        self.speaking, self.quiet_frames = False, 0
        self.answer, self.count = None, 0

    async def send(self, kind, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def run(self):
        await self.send("session.created", session={"type": "realtime"})
        try:
            async for message in self.socket:
                await self.take(json.loads(message))
        finally:
            await self.stop_answer()

    async def take(self, event):
        kind = event["type"]
        if kind == "session.update":
            session = event["session"]
            detection = session["audio"]["input"]["turn_detection"]
            self.detects = detection is not None
            self.silence_ms = (detection or {}).get("silence_duration_ms", 500)
            self.tokens_max = session.get("max_output_tokens", self.tokens_max)
            await self.send("session.updated", session=session)
        elif kind == "input_audio_buffer.append":
            await self.append(np.frombuffer(base64.b64decode(event["audio"]), "<i2").astype(np.float32) / 32768)
        elif kind == "input_audio_buffer.commit":
            await self.commit()
        elif kind == "response.create":
            await self.respond()

    async def append(self, pcm24k):
        # 24 kHz to 16 kHz: what the load generator sends has nothing above 8 kHz.
        at = np.arange(len(pcm24k) * 2 // 3) * 1.5
        pcm = np.interp(at, np.arange(len(pcm24k)), pcm24k).astype(np.float32)
        self.heard = np.concatenate([self.heard, pcm])
        if not self.detects:
            return
        if not self.speaking:
            self.heard = self.heard[-(PADDING_SAMPLES + FRAME) :]
        self.pending = np.concatenate([self.pending, pcm])
        while len(self.pending) >= FRAME:
            frame, self.pending = self.pending[:FRAME], self.pending[FRAME:]
            p = await self.models.run(self.models.vad.step, self.state, frame)
            await self.frame(p)

    async def frame(self, p):
        if not self.speaking and p >= SPEECH:
            self.speaking, self.quiet_frames = True, 0
            await self.send("input_audio_buffer.speech_started", audio_start_ms=0, item_id="")
            await self.stop_answer()
        elif self.speaking:
            self.quiet_frames = self.quiet_frames + 1 if p < SILENCE else 0
            if self.quiet_frames * 32 >= self.silence_ms:
                self.speaking = False
                await self.send("input_audio_buffer.speech_stopped", audio_end_ms=0, item_id="")
                await self.commit()
                await self.respond()

    async def commit(self):
        self.turn, self.heard = self.heard, np.zeros(0, np.float32)
        await self.send("input_audio_buffer.committed", item_id="", previous_item_id=None)

    async def respond(self):
        await self.stop_answer()
        self.count += 1
        self.answer = asyncio.create_task(self.answer_turn(self.turn, f"resp_{self.count}"))

    async def stop_answer(self):
        if self.answer and not self.answer.done():
            self.answer.cancel()
            try:
                await self.answer
            except asyncio.CancelledError:
                pass

    async def answer_turn(self, pcm, response):
        by, status = None, "cancelled"
        await self.send("response.created", response={"id": response, "status": "in_progress"})
        try:
            words = await self.models.run(self.models.hear, pcm)
            await self.send("conversation.item.input_audio_transcription.completed", item_id="", transcript=words)
            known = await self.models.run(self.models.match, words) if words else None
            if known:
                by = "known_question"
                await self.speak(response, self.models.spoken[known])
                said = known
            else:
                by = "model"
                said = await self.think(response, words)
            self.history.extend([{"role": "user", "content": words}, {"role": "assistant", "content": said}])
            status = "completed"
        except Exception:
            status = "failed"
            raise
        finally:
            ended = {"id": response, "status": status, "nearfield": {"ledger": {"answered_by": by}}}
            await self.send("response.done", response=ended)

    async def think(self, response, words):
        system = {"role": "system", "content": self.models.assistant["instructions"]}
        messages = [system, *self.history, {"role": "user", "content": words}]
        said, sentence = "", ""
        async with self.models.llm_free:
            pieces = self.models.llm.create_chat_completion(
                messages, max_tokens=self.tokens_max, temperature=0.0, stream=True
            )
            while True:
                piece = await self.models.run(next, pieces, None)
                text = "" if piece is None else piece["choices"][0]["delta"].get("content", "")
                said += text
                sentence += text
                end = SENTENCE_END.search(sentence)
                if end or (piece is None and sentence.strip()):
                    cut = end.end() if end else len(sentence)
                    await self.speak(response, await self.models.run(self.models.say, sentence[:cut]))
                    sentence = sentence[cut:]
                if piece is None:
                    return said

    async def speak(self, response, samples):
        pcm = (np.clip(samples, -1, 1) * 32767).astype("<i2")
        for i in range(0, len(pcm), DELTA_SAMPLES):
            audio = base64.b64encode(pcm[i : i + DELTA_SAMPLES].tobytes()).decode()
            await self.send("response.output_audio.delta", response_id=response, item_id="", delta=audio)


async def main(files, assistant, threads):
    models = Models(files, assistant, threads)

    async def serve(socket):
        try:
            await Call(socket, models).run()
        except websockets.ConnectionClosed:
            pass

    async with websockets.serve(serve, "127.0.0.1", 0, max_size=None, ping_interval=None) as server:
        print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main(json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
