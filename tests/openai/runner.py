"""A conversation held by `RealtimeRunner` of the `openai-agents` package, unmodified.

    runner.py WS_URL QUESTION.wav

The agent has one function. The session is asked in text, which makes the model call it; then by voice, and spoken over.
Prints one JSON object: what the session's own events told.
"""

import asyncio
import json
import sys
import wave

from agents import function_tool, set_tracing_disabled
from agents.realtime import RealtimeAgent, RealtimeRunner

CHUNK_BYTES = 4800  # 100 ms


@function_tool
def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: The name of the city.
    """
    return f"18 degrees and sunny in {city}"


async def say(session, pcm, silence_chunks):
    chunks = [pcm[i : i + CHUNK_BYTES] for i in range(0, len(pcm), CHUNK_BYTES)]
    for chunk in chunks + [bytes(CHUNK_BYTES)] * silence_chunks:
        await session.send_audio(chunk)


async def main(url, question):
    set_tracing_disabled(True)
    with wave.open(question, "rb") as recording:
        pcm = recording.readframes(recording.getnframes())
    agent = RealtimeAgent(name="Desk", instructions="Answer in one sentence.", tools=[get_weather])
    settings = {
        "model_name": "gpt-realtime",
        "audio": {
            "input": {"turn_detection": {"type": "server_vad", "silence_duration_ms": 300, "interrupt_response": True}},
        },
    }
    runner = RealtimeRunner(agent, config={"model_settings": settings, "tracing_disabled": True})
    session = await runner.run(model_config={"url": url, "api_key": "not-needed-on-loopback"})
    seen, tools, audio, errors = [], [], 0, []
    turns, interrupted = 0, False
    async with session:
        await session.send_message("How warm is it in Paris?")
        async for event in session:
            if not seen or seen[-1] != event.type:
                seen.append(event.type)
            if event.type == "tool_end":
                tools.append({"name": event.tool.name, "output": str(event.output)})
            elif event.type == "audio":
                audio += len(event.audio.data)
                if turns == 2 and not interrupted:
                    # Over the answer to the spoken question.
                    interrupted = True
                    await say(session, pcm, 0)
            elif event.type == "audio_interrupted":
                await say(session, b"", 15)
            elif event.type == "error":
                errors.append(str(event.error))
            elif event.type == "agent_end":
                turns += 1
                if turns == 2:
                    await say(session, pcm, 15)
                elif turns == 4:
                    break
        history = []
        for item in session._history:
            words = [getattr(part, "text", None) or getattr(part, "transcript", None) for part in getattr(item, "content", [])]
            history.append({"type": item.type, "role": getattr(item, "role", None), "words": words})
    print(json.dumps({"seen": seen, "tools": tools, "audio_ms": audio // 48, "errors": errors, "history": history}))


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=300))
