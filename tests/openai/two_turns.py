"""A spoken conversation of several turns with the official `openai` client, unmodified.

    two_turns.py BASE_URL QUESTION.wav [QUESTION.wav ...]

Each question is a mono 16-bit WAV at 24 kHz. The server finds the end of each turn. Prints one JSON object.
"""

import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI
from strict import CHUNK_BYTES, STRICT, pcm, receive


async def turn(connection, audio, problems):
    """Says one thing; returns what came back."""
    silence = bytes(CHUNK_BYTES)
    chunks = [audio[i : i + CHUNK_BYTES] for i in range(0, len(audio), CHUNK_BYTES)] + [silence] * 25
    for chunk in chunks:
        await connection.input_audio_buffer.append(audio=base64.b64encode(chunk).decode())
    heard, answer, transcript, types = "", b"", "", []
    while True:
        event = await receive(connection, problems)
        if not types or types[-1] != event.type:
            types.append(event.type)
        match event.type:
            case "conversation.item.input_audio_transcription.completed":
                heard = f"{heard} {event.transcript}".strip()
            case "response.output_audio.delta":
                answer += base64.b64decode(event.delta)
            case "response.output_audio_transcript.done":
                transcript = event.transcript
            case "response.done":
                if event.response.status == "cancelled":
                    answer, transcript = b"", ""
                    continue
                return {
                    "heard": heard,
                    "answer": transcript,
                    "status": event.response.status,
                    "audio_ms": len(answer) // 48,
                    "total_tokens": event.response.usage.total_tokens,
                    "ledger": event.response.model_extra["nearfield"]["ledger"],
                    "types": types,
                }


async def main(base_url, questions):
    client = AsyncOpenAI(api_key="not-needed-on-loopback", base_url=base_url)
    problems = []
    async with client.realtime.connect(model="gpt-realtime", extra_query={"greeting": "off"}) as connection:
        created = await connection.recv()
        assert created.type == "session.created", created
        await connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": ["audio"],
                "audio": {
                    "input": {
                        "format": {"type": "audio/pcm", "rate": 24000},
                        "turn_detection": {"type": "server_vad", "silence_duration_ms": 700},
                    },
                    "output": {"format": {"type": "audio/pcm", "rate": 24000}, "voice": "marin"},
                },
            }
        )
        updated = await connection.recv()
        assert updated.type == "session.updated", updated
        assert updated.session.audio.input.turn_detection.silence_duration_ms == 700
        for event in (created, updated):
            STRICT.validate_python(event.to_dict())
        turns = [await turn(connection, pcm(question), problems) for question in questions]
        # Typed instead of spoken, by the same connection, and an answer in text alone.
        await connection.conversation.item.create(
            item={"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Thank you, goodbye."}]}
        )
        await connection.response.create(response={"output_modalities": ["text"], "max_output_tokens": 64})
        typed = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                typed += event.delta
            elif event.type == "error":
                raise SystemExit(f"the server reported an error: {event.error}")
            elif event.type == "response.done":
                break
        # An event that nobody knows is an error that names it, and the session goes on.
        await connection.send({"type": "no.such.event", "event_id": "mine"})
        async for event in connection:
            if event.type == "error":
                refused = {"event_id": event.error.event_id, "param": event.error.param}
                break
    place = created.session.model_extra["nearfield"]
    print(json.dumps({"place": place, "turns": turns, "typed": typed, "refused": refused, "problems": problems}))


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(sys.argv[1], sys.argv[2:]), timeout=540))
