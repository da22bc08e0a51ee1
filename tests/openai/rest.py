"""The REST endpoints with the official `openai` client, unmodified.

    rest.py BASE_URL RECORDING.wav

Prints one JSON object with what came back; whoever runs it judges.
"""

import json
import math
import sys

import openai
from openai import OpenAI


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def models(client):
    listed = [model.id for model in client.models.list()]
    return {"listed": listed, "first": client.models.retrieve(listed[0]).id}


def embeddings(client):
    texts = ["When are you open?", "What are your opening hours?", "The dog sleeps under the table."]
    made = client.embeddings.create(model="text-embedding-3-small", input=texts)  # base64 on the wire
    floats = client.embeddings.create(model="text-embedding-3-small", input=texts[0], encoding_format="float")
    vectors = [entry.embedding for entry in made.data]
    return {
        "size": len(vectors[0]),
        "same": cosine(vectors[0], floats.data[0].embedding),
        "near": cosine(vectors[0], vectors[1]),
        "far": cosine(vectors[0], vectors[2]),
        "tokens": made.usage.total_tokens,
    }


def transcriptions(client, path):
    def ask(**options):
        with open(path, "rb") as recording:
            return client.audio.transcriptions.create(model="whisper-1", file=recording, **options)

    verbose = ask(response_format="verbose_json", timestamp_granularities=["word", "segment"])
    streamed = list(ask(stream=True))
    return {
        "json": ask().text,
        "text": ask(response_format="text"),
        "srt": ask(response_format="srt"),
        "vtt": ask(response_format="vtt"),
        "duration": verbose.duration,
        "language": verbose.language,
        "words": [[word.word, word.start, word.end] for word in verbose.words],
        "segments": [[segment.text, segment.start, segment.end] for segment in verbose.segments],
        "streamed": "".join(event.delta for event in streamed if event.type == "transcript.text.delta"),
        "done": [event.text for event in streamed if event.type == "transcript.text.done"],
    }


def speech(client, text):
    """Spoken in every format, and what is heard of it."""
    heard = {}
    for form in ("mp3", "opus", "flac", "wav"):
        with client.audio.speech.with_streaming_response.create(
            model="tts-1", voice="alloy", input=text, response_format=form
        ) as response:
            audio = b"".join(response.iter_bytes())
        named = (f"spoken.{form}", audio)
        heard[form] = client.audio.transcriptions.create(model="whisper-1", file=named).text
    pcm = client.audio.speech.create(model="tts-1", voice="alloy", input=text, response_format="pcm").read()
    quick = client.audio.speech.create(model="tts-1", voice="alloy", input=text, response_format="pcm", speed=2.0).read()
    return {"heard": heard, "seconds": len(pcm) / 48000, "quick_seconds": len(quick) / 48000}


def chat(client):
    ask = client.chat.completions.create
    hours = ask(model="front-desk", messages=[{"role": "user", "content": "When are you open?"}])
    question = [{"role": "user", "content": "Tell me something about the sea."}]
    plain = ask(model="gpt-4o-mini", messages=question, max_tokens=48)
    chunks = list(
        ask(model="gpt-4o-mini", messages=question, max_tokens=48, stream=True, stream_options={"include_usage": True})
    )
    short = ask(model="gpt-4o-mini", messages=question, max_completion_tokens=3)
    stop = plain.choices[0].message.content.split()[3]
    stopped = ask(model="gpt-4o-mini", messages=question, max_tokens=48, stop=[stop, "no such words"])
    warm = [
        ask(model="gpt-4o-mini", messages=question, max_tokens=24, temperature=1.0, seed=seed).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    return {
        "hours": hours.choices[0].message.content,
        "plain": plain.choices[0].message.content,
        "finish": plain.choices[0].finish_reason,
        "streamed": "".join(c.choices[0].delta.content or "" for c in chunks if c.choices),
        "finishes": [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason],
        "usage": [c.usage.total_tokens for c in chunks if c.usage],
        "short": [short.choices[0].finish_reason, short.usage.completion_tokens],
        "stop": stop,
        "stopped": [stopped.choices[0].message.content, stopped.choices[0].finish_reason],
        "warm": warm,
    }


def tools(client):
    """A function is called, its result goes back, and the answer goes on."""
    weather = {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
    messages = [{"role": "user", "content": "What is the weather in Paris?"}]
    options = {"model": "gpt-4o-mini", "tools": [weather], "max_tokens": 96}
    choice = {"type": "function", "function": {"name": "get_weather"}}
    called = client.chat.completions.create(messages=messages, tool_choice=choice, **options).choices[0]
    call = called.message.tool_calls[0]
    streamed = client.chat.completions.create(messages=messages, tool_choice=choice, stream=True, **options)
    deltas = [delta for c in streamed if c.choices for delta in c.choices[0].delta.tool_calls or []]
    messages += [called.message, {"role": "tool", "tool_call_id": call.id, "content": "It is sunny, 24 degrees."}]
    answer = client.chat.completions.create(messages=messages, tool_choice="none", **options).choices[0]
    return {
        "finish": called.finish_reason,
        "name": call.function.name,
        "arguments": json.loads(call.function.arguments),
        "streamed": [[delta.function.name, json.loads(delta.function.arguments)] for delta in deltas],
        "answer": answer.message.content,
    }


def refused(client):
    try:
        client.embeddings.create(model="any", input="")
    except openai.BadRequestError as error:
        return {"status": error.status_code, "code": error.code, "param": error.param, "type": error.type}


def main(base_url, recording):
    client = OpenAI(api_key="not-needed-on-loopback", base_url=base_url)
    print(
        json.dumps(
            {
                "models": models(client),
                "embeddings": embeddings(client),
                "transcriptions": transcriptions(client, recording),
                "speech": speech(client, "The quick brown fox jumps over the lazy dog. It was a sunny morning."),
                "chat": chat(client),
                "tools": tools(client),
                "refused": refused(client),
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
