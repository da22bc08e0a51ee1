// A call to this node over WebRTC: one request with an offer, then speech both ways and events beside it.
import { addTurn, clearTurns } from "/talk/ledger.js";

const $ = (id) => document.getElementById(id);
const CAPTIONS_MAX = 200;
let call = null; // The call in progress: its connection, microphone, events and timers.
let key = ""; // In this page's memory and nowhere else.

function say(state, text) {
  $("status").dataset.state = state;
  if ($("status").textContent !== text) $("status").textContent = text;
}

function problem(text) {
  $("problem").textContent = text;
}

// ---------------------------------------------------------------- captions

const captions = new Map(); // What is being said, by the id of its item.

function caption(id, who) {
  let entry = captions.get(id);
  if (!entry) {
    const line = document.createElement("li");
    line.dataset.who = who;
    const name = Object.assign(document.createElement("b"), { textContent: who === "caller" ? "You" : $("assistant").textContent });
    const words = document.createElement("span");
    line.append(name, words);
    entry = { line, words };
    captions.set(id, entry);
    $("pending").append(line);
  }
  return entry;
}

// Only whole utterances reach the log, so that a screen reader reads each of them once.
function finish(id, text, note = "") {
  const entry = captions.get(id);
  if (!entry) return;
  captions.delete(id);
  entry.line.remove();
  if (!text.trim()) return;
  entry.words.textContent = text.trim();
  if (note) entry.line.append(" ", Object.assign(document.createElement("small"), { textContent: note }));
  $("captions").append(entry.line);
  while ($("captions").children.length > CAPTIONS_MAX) $("captions").firstChild.remove();
  entry.line.scrollIntoView({ block: "nearest" });
}

// ---------------------------------------------------------------- events

function happened(event) {
  switch (event.type) {
    case "session.created":
    case "session.updated": {
      const at = event.session.nearfield ?? {};
      $("assistant").textContent = at.assistant ?? "–";
      $("node").textContent = at.node ?? "–";
      $("region").textContent = at.region ?? "–";
      $("law").textContent = at.jurisdiction?.toUpperCase() ?? "–";
      say("live", "Listening");
      break;
    }
    case "input_audio_buffer.speech_started":
      caption(event.item_id, "caller").words.textContent = "…";
      say("live", "You are speaking");
      break;
    case "input_audio_buffer.speech_stopped":
      say("busy", "Thinking");
      break;
    case "conversation.item.input_audio_transcription.delta": {
      const { words } = caption(event.item_id, "caller");
      words.textContent = (words.textContent === "…" ? "" : words.textContent) + event.delta;
      break;
    }
    case "conversation.item.input_audio_transcription.completed":
      finish(event.item_id, event.transcript);
      if (!event.transcript.trim()) say("live", "Listening");
      break;
    case "conversation.item.input_audio_transcription.failed":
      finish(event.item_id, "");
      problem(`Your words could not be found: ${event.error.message}`);
      break;
    case "response.created":
      say("busy", "Thinking");
      break;
    case "response.output_audio_transcript.delta":
      caption(event.item_id, "assistant").words.append(event.delta);
      break;
    case "output_audio_buffer.started":
      say("live", "Speaking");
      $("stop").disabled = false;
      break;
    case "output_audio_buffer.stopped":
    case "output_audio_buffer.cleared":
      say("live", "Listening");
      $("stop").disabled = true;
      break;
    case "response.done":
      done(event.response);
      break;
    case "error":
      problem(event.error.message);
      break;
  }
}

function done({ status, status_details: details, output, nearfield }) {
  const whole = status === "completed" || details?.reason === "max_output_tokens";
  for (const item of output) {
    const text = (item.content ?? []).map((part) => part.transcript ?? part.text ?? "").join(" ");
    finish(item.id, text, whole ? "" : "(cut short)");
  }
  if (status === "failed") problem(`The answer failed: ${details?.error?.message ?? "try again"}`);
  const ms = addTurn(nearfield?.ledger);
  if (ms !== null) $("speed").textContent = `after ${ms} ms`;
}

// ---------------------------------------------------------------- the call

async function microphone() {
  if (!window.RTCPeerConnection || !navigator.mediaDevices?.getUserMedia) {
    throw new Error(
      window.isSecureContext
        ? "This browser has no WebRTC. Use a current Firefox, Chrome, Edge or Safari."
        : "Browsers give the microphone to secure pages only. Open this page over https://, or on this machine at http://127.0.0.1.",
    );
  }
  try {
    const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 };
    return await navigator.mediaDevices.getUserMedia({ audio });
  } catch (error) {
    const remedies = {
      NotAllowedError: "The microphone was refused. Allow it for this page beside the address, then start again.",
      NotFoundError: "No microphone was found. Plug one in, then start again.",
      NotReadableError: "Another program holds the microphone. Close it, then start again.",
    };
    throw new Error(remedies[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

async function answerTo(offer) {
  const headers = { "content-type": "application/sdp" };
  if (key) headers.authorization = `Bearer ${key}`;
  const response = await fetch(`/v1/realtime/calls${location.search}`, { method: "POST", headers, body: offer }).catch(() => {
    throw new Error("The node cannot be reached. Is it still running? Load the page again.");
  });
  if (response.ok) return response.text();
  const { error } = await response.json().catch(() => ({ error: { message: `the node answered ${response.status}` } }));
  if (response.status === 401) {
    key = "";
    $("key-form").hidden = false;
    $("key").focus();
    throw new Error("This node wants a key before it takes calls. Enter one, and the call starts.");
  }
  const again = response.headers.get("retry-after");
  throw new Error(again ? `${error.message} (in ${again} s)` : error.message);
}

async function start() {
  problem("");
  say("busy", "Connecting");
  $("call").disabled = true;
  const mine = { connection: null, microphone: null, timers: [] };
  call = mine;
  try {
    mine.microphone = await microphone();
    const connection = new RTCPeerConnection();
    mine.connection = connection;
    mine.microphone.getAudioTracks().forEach((track) => connection.addTrack(track, mine.microphone));
    connection.addEventListener("track", ({ track }) => { $("speaker").srcObject = new MediaStream([track]); });
    connection.addEventListener("connectionstatechange", () => watch(mine));
    mine.events = connection.createDataChannel("oai-events");
    mine.events.addEventListener("message", ({ data }) => happened(JSON.parse(data)));
    mine.events.addEventListener("close", () => { if (call === mine) end("The node ended the call."); });
    await connection.setLocalDescription();
    const sdp = await answerTo(connection.localDescription.sdp);
    if (call !== mine) return;
    await connection.setRemoteDescription({ type: "answer", sdp });
  } catch (error) {
    if (call === mine) end(error.message);
    return;
  }
  clearTurns();
  mine.timers.push(setInterval(() => measureNetwork(mine), 2000));
  showLevel(mine);
  $("key-form").hidden = true;
  $("call").textContent = "Hang up";
  $("call").dataset.live = "true";
  $("call").disabled = false;
  $("mute").disabled = false;
}

function watch(mine) {
  if (call !== mine || mine.connection.connectionState !== "failed") return;
  end("No audio connection could be made: UDP to the node's address seems to be blocked. Use another network, or ask the node's operator which address [webrtc] tells.");
}

// Ends the call; a reason is shown where it was not the person who ended it.
function end(reason = "") {
  const mine = call;
  call = null;
  mine?.timers.forEach(clearInterval);
  mine?.microphone?.getTracks().forEach((track) => track.stop());
  mine?.connection?.close();
  mine?.context?.close();
  $("speaker").srcObject = null;
  for (const [id, { words }] of [...captions]) finish(id, words.textContent === "…" ? "" : words.textContent, "(cut short)");
  $("call").textContent = "Start talking";
  $("call").dataset.live = "false";
  $("call").disabled = false;
  $("stop").disabled = true;
  $("mute").disabled = true;
  mute(false);
  $("level").value = 0;
  // An error that the node sent just before says more.
  if (reason && !$("problem").textContent) problem(reason);
  say("idle", "Not connected");
}

function mute(on) {
  call?.microphone?.getAudioTracks().forEach((track) => { track.enabled = !on; });
  $("mute").setAttribute("aria-pressed", String(on));
}

async function measureNetwork(mine) {
  for (const report of (await mine.connection.getStats()).values()) {
    if (report.type === "candidate-pair" && report.nominated && report.currentRoundTripTime !== undefined) {
      $("network").textContent = `${Math.round(report.currentRoundTripTime * 1000)} ms there and back`;
    }
  }
}

function showLevel(mine) {
  mine.context = new AudioContext();
  const analyser = mine.context.createAnalyser();
  mine.context.createMediaStreamSource(mine.microphone).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  mine.timers.push(setInterval(() => {
    analyser.getFloatTimeDomainData(samples);
    const loud = Math.sqrt(samples.reduce((total, sample) => total + sample * sample, 0) / samples.length);
    $("level").value = Math.min(1, loud * 4);
  }, 100));
}

$("call").addEventListener("click", () => { if (call) { problem(""); end(); } else start(); });
$("mute").addEventListener("click", () => mute($("mute").getAttribute("aria-pressed") !== "true"));
$("stop").addEventListener("click", () => {
  if (call?.events?.readyState === "open") call.events.send(JSON.stringify({ type: "output_audio_buffer.clear" }));
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  $("key").value = "";
  start();
});
addEventListener("pagehide", () => { if (call) end(); });
