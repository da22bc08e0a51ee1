"""The same models through the engines a user would pick instead: ONNX Runtime and llama.cpp.

Each class feeds one published network as its own package does. Audio is float32 in [-1, 1], 16 kHz unless said otherwise.
Used by stages.py, which is measured stage by stage, and by naive_server.py, which answers whole calls.
"""

import os

import numpy as np
import onnxruntime as ort


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if path.endswith(".ort"):
        options.add_session_config_entry("session.load_model_format", "ORT")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Silero:
    """Voice activity, one frame of 512 samples after another, as in a call: 64 samples of context before each."""

    def __init__(self, path, threads):
        self.session = session(path, threads)

    def start(self):
        zeros = np.zeros((1, 1, 128), np.float32)
        return [zeros, zeros, np.zeros(64, np.float32)]

    def step(self, state, frame):
        h, c, context = state
        x = np.concatenate([context, frame])[None]
        p, h, c = self.session.run(None, {"input": x, "h": h, "c": c})
        state[:] = [h, c, frame[-64:]]
        return float(p[0])

    def probabilities(self, pcm):
        state = self.start()
        return [self.step(state, pcm[i : i + 512]) for i in range(0, len(pcm) - 511, 512)]


class Moonshine:
    """Speech recognition: one pass of the encoder, then a token at a time with cached keys and values."""

    LAYERS, HEADS, HEAD = 6, 8, 36
    BOS, EOS = 1, 2
    TOKENS_PER_SECOND = 6.5

    def __init__(self, encoder, decoder, tokenizer, threads):
        self.encoder = session(encoder, threads)
        self.decoder = session(decoder, threads)
        self.outputs = [o.name for o in self.decoder.get_outputs()]
        self.words = self.vocabulary(tokenizer)

    @staticmethod
    def vocabulary(path):
        with open(path, "rb") as f:
            data = f.read()
        words, at = [], 0
        while at < len(data):
            n = data[at]
            at += 1
            if n == 0:
                words.append(b"")
                continue
            if n >= 128:
                n = data[at] * 128 + n - 128
                at += 1
            words.append(data[at : at + n])
            at += n
        return words

    def tokens(self, pcm):
        value = ort.OrtValue.ortvalue_from_numpy
        # Both networks take a mask over samples; the decoder picks one for each frame.
        mask = value(np.ones((1, len(pcm)), np.int64))
        hidden = self.encoder.run_with_ort_values(None, {"input_values": value(pcm[None]), "attention_mask": mask})[0]
        feed = {
            "encoder_hidden_states": hidden,
            "encoder_attention_mask": mask,
            "use_cache_branch": value(np.array([False])),
        }
        empty = value(np.zeros((1, self.HEADS, 0, self.HEAD), np.float32))
        for i in range(self.LAYERS):
            for side in ("decoder", "encoder"):
                for kind in ("key", "value"):
                    feed[f"past_key_values.{i}.{side}.{kind}"] = empty
        token, found = self.BOS, []
        for step in range(max(6, int(len(pcm) / 16000 * self.TOKENS_PER_SECOND))):
            feed["input_ids"] = value(np.array([[token]], np.int64))
            out = dict(zip(self.outputs, self.decoder.run_with_ort_values(None, feed)))
            token = int(out.pop("logits").numpy()[0, -1].argmax())
            if token == self.EOS:
                break
            found.append(token)
            for name, past in out.items():
                # Keys and values of the audio are computed in the first step and stay.
                if step == 0 or ".decoder." in name:
                    feed[name.replace("present", "past_key_values")] = past
            feed["use_cache_branch"] = value(np.array([True]))
        return found

    def text(self, tokens):
        return b"".join(self.words[t] for t in tokens).decode("utf-8", "replace").replace("\u2581", " ").strip()


class Hibari:
    """Speech synthesis: the network alone, and with the vocoder of its own package."""

    def __init__(self, path, threads):
        from hibari import Hibari as Package

        self.package = Package(model=path, threads=threads)
        self.package.sess = session(path, threads)

    def network(self, ids):
        feed = {"ids": np.asarray([ids], np.int64), "speed": np.ones(1, np.float32)}
        return self.package.sess.run(None, feed)

    def render(self, ids):
        return self.package.from_ids(ids, 1.0, np.random.default_rng(0))

    def say(self, text):
        for phonemes in self.package.phonemize(text):
            yield self.render(self.package.ids(phonemes))


class MiniLm:
    """Sentence embeddings: mean of the last layer, at unit length."""

    def __init__(self, path, tokenizer, threads):
        from tokenizers import Tokenizer

        self.session = session(path, threads)
        self.tokenizer = Tokenizer.from_file(tokenizer)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(256)

    def embed(self, texts):
        rows = [e.ids for e in self.tokenizer.encode_batch(texts)]
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
            mask[i, : len(row)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self.session.run(None, feed)[0]
        mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def embed_batched(self, texts, batch=32):
        """Sorted by length, so that little is padded."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        found = np.zeros((len(texts), 384), np.float32)
        for i in range(0, len(order), batch):
            part = order[i : i + batch]
            found[part] = self.embed([texts[j] for j in part])
        return found


class LlamaCpp:
    """A GGUF file through llama.cpp's own C interface, without the Python class around it."""

    def __init__(self, path, threads, places=2048):
        # Its log goes to standard error, which nobody reads.
        saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        try:
            import llama_cpp

            self.c = c = llama_cpp
            c.llama_backend_init()
            model = c.llama_model_default_params()
            model.n_gpu_layers = 0
            self.model = c.llama_model_load_from_file(path.encode(), model)
            params = c.llama_context_default_params()
            params.n_ctx, params.n_batch, params.n_ubatch = places, 512, 512
            params.n_threads = params.n_threads_batch = threads
            self.context = c.llama_init_from_model(self.model, params)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            os.close(null)
        if not self.model or not self.context:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab = c.llama_model_get_vocab(self.model)
        self.vocabulary = c.llama_vocab_n_tokens(self.vocab)
        self.greedy = c.llama_sampler_init_greedy()

    def clear(self):
        self.c.llama_memory_clear(self.c.llama_get_memory(self.context), True)

    def feed(self, tokens):
        array = (self.c.llama_token * len(tokens))(*tokens)
        if self.c.llama_decode(self.context, self.c.llama_batch_get_one(array, len(tokens))) != 0:
            raise RuntimeError("llama.cpp refuses to decode")

    def best(self):
        return self.c.llama_sampler_sample(self.greedy, self.context, -1)

    def logits(self):
        pointer = self.c.llama_get_logits_ith(self.context, -1)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,)).astype(np.float64)

    def negative_log_likelihoods(self, prompt, tokens):
        """Of each of `tokens` after the prompt, each fed after it was scored."""
        self.clear()
        self.feed(prompt)
        found = []
        for token in tokens:
            logits = self.logits()
            peak = logits.max()
            found.append(float(peak + np.log(np.exp(logits - peak).sum()) - logits[token]))
            self.feed([token])
        return found
