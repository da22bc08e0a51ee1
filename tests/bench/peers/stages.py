"""Runs one stage after another on request: one JSON object a line on standard input, one on standard output.

A request names what to do and carries its input; the answer has the time of the work alone, `wall_ms` and `cpu_ms` of all
threads of this process, and what was computed. Requests come one at a time.
"""

import json
import os
import sys
import time

import numpy as np

import engines

# Whatever a library prints must not end up among the answers.
answers = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)


class Clock:
    def __enter__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_):
        self.wall_ms = (time.perf_counter() - self.wall) * 1e3
        self.cpu_ms = (time.process_time() - self.cpu) * 1e3

    def answer(self, **found):
        return {"wall_ms": self.wall_ms, "cpu_ms": self.cpu_ms, **found}


def audio(path):
    return np.fromfile(path, np.float32)


class Stages:
    def __init__(self):
        self.files, self.threads, self.loaded = {}, 2, {}

    def begin(self, files, threads):
        import onnxruntime

        self.files, self.threads = files, threads
        return {"python": sys.version.split()[0], "onnxruntime": onnxruntime.__version__}

    def engine(self, kind):
        """Loads on first use, outside of every clock."""
        if kind not in self.loaded:
            f, n = self.files, self.threads
            make = {
                "llm": lambda: engines.LlamaCpp(f["llm"], n),
                "asr": lambda: engines.Moonshine(f["asr-encoder"], f["asr-decoder"], f["asr-tokenizer"], n),
                "tts": lambda: engines.Hibari(f["tts"], n),
                "vad": lambda: engines.Silero(f["vad"], n),
                "embed": lambda: engines.MiniLm(f["embed"], f["embed-tokenizer"], n),
            }
            self.loaded[kind] = make[kind]()
        return self.loaded[kind]

    def llm_decode(self, prompt, tokens):
        """The prompt but for its last token is fed before the clock starts."""
        llm = self.engine("llm")
        llm.clear()
        llm.feed(prompt[:-1])
        token, found = prompt[-1], []
        with Clock() as clock:
            for _ in range(tokens):
                llm.feed([token])
                token = llm.best()
                found.append(token)
        return clock.answer(tokens=found)

    def llm_prefill(self, prompt):
        llm = self.engine("llm")
        llm.clear()
        with Clock() as clock:
            llm.feed(prompt)
            token = llm.best()
        return clock.answer(tokens=[token])

    def llm_likelihoods(self, windows):
        llm = self.engine("llm")
        found = [llm.negative_log_likelihoods(prompt, tokens) for prompt, tokens in windows]
        return {"nll": found}

    def asr(self, files):
        asr = self.engine("asr")
        recordings = [audio(f) for f in files]
        with Clock() as clock:
            found = [asr.tokens(pcm) for pcm in recordings]
        return clock.answer(tokens=found)

    def tts_network(self, phrases):
        tts = self.engine("tts")
        with Clock() as clock:
            found = [tts.network(ids) for ids in phrases]
        # One frame of the spectrum is 12.5 ms: 300 samples.
        return clock.answer(samples=[out[0].shape[2] * 300 for out in found])

    def tts(self, phrases):
        tts = self.engine("tts")
        with Clock() as clock:
            found = [tts.render(ids) for ids in phrases]
        return clock.answer(samples=[len(samples) for samples in found])

    def vad(self, file):
        vad, pcm = self.engine("vad"), audio(file)
        with Clock() as clock:
            found = vad.probabilities(pcm)
        return clock.answer(probabilities=found)

    def embed(self, texts):
        embed = self.engine("embed")
        with Clock() as clock:
            found = [embed.embed([text])[0] for text in texts]
        return clock.answer(embeddings=[[round(float(x), 6) for x in e] for e in found])

    def embed_batched(self, texts):
        embed = self.engine("embed")
        with Clock() as clock:
            found = embed.embed_batched(texts)
        return clock.answer(embeddings=[[round(float(x), 6) for x in e] for e in found])


stages = Stages()
for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = getattr(stages, request.pop("do"))(**request)
    except Exception as e:
        answer = {"error": f"{type(e).__name__}: {e}"}
    answers.write(json.dumps(answer) + "\n")
