"""Client secrets, functions and transcription sessions with the official `openai` client, unmodified.

    sessions.py BASE_URL QUESTION.wav

Prints one JSON object.
"""

import asyncio
import base64
import json
import sys

from openai import AsyncOpenAI, AuthenticationError, BadRequestError
from strict import CHUNK_BYTES, pcm, until

WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


async def functions(client, base_url, problems):
    """A session that a client secret opens: a call, its result, and words about it."""
    made = await client.realtime.client_secrets.create(
        session={"type": "realtime", "model": "gpt-realtime", "tools": [WEATHER], "output_modalities": ["text"]},
        expires_after={"anchor": "created_at", "seconds": 60},
    )
    assert made.session.type == "realtime" and made.session.tools[0].name == "get_weather", made
    secret = AsyncOpenAI(api_key=made.value, base_url=base_url)
    async with secret.realtime.connect(model="gpt-realtime", extra_query={"greeting": "off"}) as connection:
        created = (await until(connection, "session.created", problems))[-1]
        assert created.session.tools[0].name == "get_weather", created
        message = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "How warm is it?"}]}
        await connection.conversation.item.create(item=message)
        await connection.response.create()
        events = await until(connection, "response.done", problems)
        call = events[-1].response.output[0]
        await connection.conversation.item.create(
            item={"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
        )
        await connection.response.create()
        words = (await until(connection, "response.done", problems))[-1].response.output[0].content[0].text
        await connection.conversation.item.retrieve(item_id=call.id)
        shown = (await until(connection, "conversation.item.retrieved", problems))[-1].item
        assert shown.arguments == call.arguments, shown
    return {"call": [call.name, call.arguments], "types": [event.type for event in events], "words": words}


async def transcription(client, question, problems):
    """Words alone."""
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        created = (await until(connection, "session.created", problems))[-1]
        detection = {"type": "server_vad", "silence_duration_ms": 300}
        audio = {"input": {"transcription": {"model": "gpt-4o-mini-transcribe"}, "turn_detection": detection}}
        await connection.session.update(session={"type": "transcription", "audio": audio})
        await until(connection, "session.updated", problems)
        sent = pcm(question) + bytes(15 * CHUNK_BYTES)
        for at in range(0, len(sent), CHUNK_BYTES):
            await connection.input_audio_buffer.append(audio=base64.b64encode(sent[at : at + CHUNK_BYTES]).decode())
        heard = (await until(connection, "conversation.item.input_audio_transcription.completed", problems))[-1]
    return {"type": created.session.type, "heard": heard.transcript}


async def given(client, question, problems):
    """Audio that comes as an item and is answered in a format of its own, and an answer beside it that does not wait for it."""
    async with client.realtime.connect(model="gpt-realtime", extra_query={"greeting": "off"}) as connection:
        await until(connection, "session.created", problems)
        spoken = [{"type": "input_audio", "audio": base64.b64encode(pcm(question)).decode()}]
        await connection.conversation.item.create(item={"type": "message", "role": "user", "content": spoken})
        pcmu = {"output": {"format": {"type": "audio/pcmu"}}}
        await connection.response.create(response={"audio": pcmu, "metadata": {"topic": "spoken"}})
        asked = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "What was it about?"}]}]
        await connection.response.create(
            response={
                "conversation": "none",
                "output_modalities": ["text"],
                "input": asked,
                "instructions": "Name the topic in one word.",
                "metadata": {"topic": "beside"},
            }
        )
        events = await until(connection, "response.done", problems)
        events += await until(connection, "response.done", problems)
        ended = [event.response for event in events if event.type == "response.done"]
        first, second = sorted(ended, key=lambda response: response.metadata["topic"], reverse=True)
        begun = [event.response.metadata["topic"] for event in events if event.type == "response.created"]
        mine = [event for event in events if getattr(event, "response_id", None) == second.id]
        heard = [e.transcript for e in events if e.type == "conversation.item.input_audio_transcription.completed"]
        audio = b"".join(base64.b64decode(e.delta) for e in events if e.type == "response.output_audio.delta")
    assert begun == ["spoken", "beside"] and mine, events
    return {
        "heard": heard,
        "bytes": len(audio),
        "formats": [first.audio.output.format.type, second.audio.output.format.type],
        "topics": [first.metadata["topic"], second.metadata["topic"]],
        "in_conversation": [first.conversation_id is not None, second.conversation_id is not None],
        "beside": second.output[0].content[0].text,
    }


async def refused(client, base_url):
    """What the client makes of refusals."""
    try:
        await client.realtime.client_secrets.create(session={"type": "realtime", "max_output_tokens": 0})
    except BadRequestError as error:
        param = error.param
    try:
        async with AsyncOpenAI(api_key="ek_nobodys", base_url=base_url).realtime.connect(model="x"):
            status = 101
    except AuthenticationError as error:
        status = error.status_code
    except Exception as error:  # the websockets package's own, which the client passes on
        status = error.response.status_code
    return {"param": param, "status": status}


async def main(base_url, question):
    client = AsyncOpenAI(api_key="not-needed-on-loopback", base_url=base_url)
    problems = []
    found = {
        "functions": await functions(client, base_url, problems),
        "given": await given(client, question, problems),
        "transcription": await transcription(client, question, problems),
        "refused": await refused(client, base_url),
        "problems": problems,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), timeout=300))
