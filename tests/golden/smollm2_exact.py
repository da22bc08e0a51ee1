"""Adds exact scores to smollm2_greedy.json: the same weights in 64-bit floats, every block dequantised, nothing rounded
but the keys and values that are kept, which are halves.

    smollm2_exact.py MODEL.gguf < smollm2_greedy.json > new.json        # pip install numpy gguf

llama.cpp rounds activations to 8 bits and its key-value cache to 16, so where two tokens score nearly the same it may
choose the other one. `exact_best` is the best token after each prefix, `exact_lead` how far the golden token stands above its best rival (below
zero: exact arithmetic prefers another), both along the golden path.
"""

import json
import sys

import numpy as np
from gguf import GGUFReader, dequantize

COMPARED = 16

reader = GGUFReader(sys.argv[1])


def field(name):
    found = reader.fields["llama." + name]
    return float(found.parts[found.data[0]][0])


weights = {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in reader.tensors}
layers, heads, groups = (int(field(n)) for n in ("block_count", "attention.head_count", "attention.head_count_kv"))
epsilon, base = field("attention.layer_norm_rms_epsilon"), field("rope.freq_base")
width = weights["token_embd.weight"].shape[1]
per_head = width // heads


def norm(x, name):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[name]


def linear(x, name):
    return x @ weights[name].T


def rotate(x):
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(0, per_head, 2) / per_head)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    even, odd, y = x[..., 0::2], x[..., 1::2], np.empty_like(x)
    y[..., 0::2], y[..., 1::2] = even * cos - odd * sin, even * sin + odd * cos
    return y


def logits(tokens):
    x, n = weights["token_embd.weight"][tokens], len(tokens)
    mask = np.triu(np.full((n, n), -np.inf), 1)
    for layer in range(layers):
        block = f"blk.{layer}."
        h = norm(x, block + "attn_norm.weight")
        q = rotate(linear(h, block + "attn_q.weight").reshape(n, heads, per_head))
        k = rotate(linear(h, block + "attn_k.weight").reshape(n, groups, per_head))
        v = linear(h, block + "attn_v.weight").reshape(n, groups, per_head)
        # What is kept of a token is kept in halves, here as in llama.cpp: that is the format of the cache, not a rounding of the arithmetic.
        k, v = (kept.astype(np.float16).astype(np.float64) for kept in (k, v))
        k, v = np.repeat(k, heads // groups, 1), np.repeat(v, heads // groups, 1)
        score = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(per_head) + mask
        score = np.exp(score - score.max(-1, keepdims=True))
        score /= score.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hqk,khd->qhd", score, v).reshape(n, width), block + "attn_output.weight")
        h = norm(x, block + "ffn_norm.weight")
        gate = linear(h, block + "ffn_gate.weight")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, block + "ffn_up.weight"), block + "ffn_down.weight")
    head = "output.weight" if "output.weight" in weights else "token_embd.weight"
    return linear(norm(x, "output_norm.weight"), head)


golden = json.load(sys.stdin)
for case in golden["cases"]:
    path = case["greedy_tokens"][:COMPARED]
    rows = logits(np.array(case["prompt_tokens"] + path))[len(case["prompt_tokens"]) - 1 :]
    case["exact_best"], case["exact_lead"] = [], []
    for row, token in zip(rows, path):
        rivals = row.copy()
        rivals[token] = -np.inf
        case["exact_best"].append(int(row.argmax()))
        case["exact_lead"].append(round(float(row[token] - rivals.max()), 4))
    case.pop("margins", None)
lines = ",\n".join("  " + json.dumps(case) for case in golden["cases"])
source = golden["source"].split(" margins:")[0].split(" exact_")[0]
source += " exact_best, exact_lead: the same file in 64-bit floats, keys and values in halves (smollm2_exact.py)"
print(f'{{\n "source": {json.dumps(source)},\n "cases": [\n{lines}\n ]\n}}')
