"""Does with the official package what Home Assistant does: asks what there is, transcribes, listens for voices, speaks."""

import asyncio
import json
import sys
import wave

from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop, wav_to_chunks
from wyoming.client import AsyncClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice
from wyoming.vad import VoiceStarted, VoiceStopped

URI, RECORDING = sys.argv[1:3]


async def ask(events, last):
    """Sends events on a connection of their own; what comes back, up to and with the event of type `last`."""
    async with AsyncClient.from_uri(URI) as client:
        for event in events:
            await client.write_event(event.event())
        seen = []
        while event := await client.read_event():
            seen.append(event)
            if event.type == last:
                break
        return seen


def audio(start, pause_s):
    """The recording, and silence behind it."""
    with wave.open(RECORDING, "rb") as file:
        rate, width = file.getframerate(), file.getsampwidth()
        events = list(wav_to_chunks(file, 1024, start_event=start))
    silence = bytes(1024 * width)
    events += [AudioChunk(rate, width, 1, silence)] * int(pause_s * rate / 1024)
    return events + [AudioStop()] * start


def spoken(seen):
    starts = [AudioStart.from_event(e) for e in seen if AudioStart.is_type(e.type)]
    chunks = [AudioChunk.from_event(e) for e in seen if AudioChunk.is_type(e.type)]
    formats = {(e.rate, e.width, e.channels) for e in starts + chunks}
    return {
        "formats": sorted(formats),
        "seconds": sum(chunk.seconds for chunk in chunks),
        "order": [e.type for i, e in enumerate(seen) if i == 0 or seen[i - 1].type != e.type],
    }


async def main():
    info = Info.from_event((await ask([Describe()], "info"))[-1])
    found = {
        "info": {
            "asr": [[m.name, m.languages, m.installed] for program in info.asr for m in program.models],
            "tts": [[v.name, v.languages, v.installed] for program in info.tts for v in program.voices],
            "streaming": [info.asr[0].supports_transcript_streaming, info.tts[0].supports_synthesize_streaming],
        }
    }
    pong = Pong.from_event((await ask([Ping("there?")], "pong"))[-1])

    heard = await ask([Transcribe(language="en")] + audio(True, 1.0), "transcript-stop")
    found["heard"] = {
        "types": [e.type for e in heard],
        "text": [Transcript.from_event(e).text for e in heard if Transcript.is_type(e.type)],
        "pieces": [TranscriptChunk.from_event(e).text for e in heard if TranscriptChunk.is_type(e.type)],
        "at_once": [
            [Transcript.from_event(e).text for e in seen if Transcript.is_type(e.type)]
            for seen in await asyncio.gather(*(ask([Transcribe()] + audio(True, 0.0), "transcript") for _ in range(3)))
        ],
    }
    voices = await ask(audio(False, 1.0), "voice-stopped")
    found["voices"] = [
        [event.type, (VoiceStarted if VoiceStarted.is_type(event.type) else VoiceStopped).from_event(event).timestamp]
        for event in voices
    ]

    text = "The quick brown fox jumps over the lazy dog. It was a sunny morning."
    voice = SynthesizeVoice(name="heart")
    found["spoken"] = spoken(await ask([Synthesize(text, voice=voice)], "audio-stop"))
    pieces = [SynthesizeStart(voice=voice)] + [SynthesizeChunk(word + " ") for word in text.split()]
    found["streamed"] = spoken(await ask(pieces + [Synthesize(text), SynthesizeStop()], "synthesize-stopped"))

    refused = await ask([Transcribe(language="de")], "error")
    error = Error.from_event(refused[-1])
    found["refused"] = [error.code, error.text]
    found["pong"] = pong.text
    print(json.dumps(found))


asyncio.run(main())
