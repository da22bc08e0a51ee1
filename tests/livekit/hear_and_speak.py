"""Transcribes and speaks with `livekit-plugins-openai`, unmodified, pointed at a node.

    python hear_and_speak.py HTTP_URL RECORDING.wav
"""

import asyncio
import json
import sys
import wave

from livekit import rtc
from livekit.plugins import openai

NODE, RECORDING = sys.argv[1:3]
WORDS = "The quick brown fox jumps over the lazy dog. It was a sunny morning."


def recording():
    with wave.open(RECORDING, "rb") as file:
        samples = file.readframes(file.getnframes())
        return rtc.AudioFrame(samples, file.getframerate(), file.getnchannels(), file.getnframes())


async def heard(model):
    stt = openai.STT(model=model, base_url=f"{NODE}/v1", api_key="none", use_realtime=False)
    event = await stt.recognize(recording())
    await stt.aclose()
    return event.alternatives[0].text


async def spoken(format):
    tts = openai.TTS(model="tts", voice="heart", base_url=f"{NODE}/v1", api_key="none", response_format=format)
    frames = [event.frame async for event in tts.synthesize(WORDS)]
    await tts.aclose()
    return {
        "rates": sorted({frame.sample_rate for frame in frames}),
        "seconds": sum(frame.samples_per_channel / frame.sample_rate for frame in frames),
    }


async def main():
    found = {
        "heard": {model: await heard(model) for model in ("gpt-4o-mini-transcribe", "whisper-1")},
        "spoken": {format: await spoken(format) for format in ("mp3", "opus", "flac", "wav", "pcm")},
    }
    print(json.dumps(found))


async def in_session():
    # The plugins share a session where they run inside an agent; here they are given one.
    from livekit.agents import utils

    async with utils.http_context.open():
        await main()


asyncio.run(in_session())
