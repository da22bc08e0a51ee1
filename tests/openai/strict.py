"""Events of a connection, each held against the client's own types, so that a field of a wrong shape is found even where the
client is lenient."""

import json
import wave

from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter, ValidationError

STRICT = TypeAdapter(RealtimeServerEvent)
CHUNK_BYTES = 4800  # 100 ms


def pcm(path):
    """A mono 16-bit WAV at 24 kHz."""
    with wave.open(path, "rb") as recording:
        shape = (recording.getnchannels(), recording.getsampwidth(), recording.getframerate())
        assert shape == (1, 2, 24000), f"{path}: {shape}"
        return recording.readframes(recording.getnframes())


async def receive(connection, problems):
    """The next event; what does not fit the client's types is noted in `problems`."""
    raw = json.loads(await connection.recv_bytes())
    if not raw["type"].startswith("nearfield."):
        try:
            STRICT.validate_python(raw)
        except ValidationError as error:
            problems.append(f"{raw['type']}: {error.errors()[:3]}")
    event = connection.parse_event(json.dumps(raw))
    if event.type == "error":
        raise SystemExit(f"the server reported an error: {event.error}")
    return event


async def until(connection, kind, problems):
    """All events up to the first of this type."""
    events = [await receive(connection, problems)]
    while events[-1].type != kind:
        events.append(await receive(connection, problems))
    return events
