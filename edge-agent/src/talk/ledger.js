// The ledger of each turn as a chart and as a table. The stages follow one another without gaps, so they add up.

const STAGES = [
  ["endpoint_ms", "waiting for your pause"],
  ["transcribe_ms", "finding the words"],
  ["match_ms", "known question?"],
  ["first_text_ms", "thinking"],
  ["first_phrase_ms", "first phrase"],
  ["first_render_ms", "speaking it"],
];
const BY = {
  greeting: "greeting", known_question: "known question", hand_over: "hand-over",
  model: "language model", unheard: "nothing heard", idle: "silence", forbidden_topic: "forbidden topic",
  filler: "words while waiting", goodbye: "goodbye", notice: "notice", language: "language",
};
const TURNS_MAX = 8;
const ROW = 34, LEFT = 70, RIGHT = 90, WIDTH = 900;
const turns = [];

const element = (name, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const html = (name, text = "", className = "") => Object.assign(document.createElement(name), { textContent: text, className });
const stagesOf = (ledger) => STAGES.map(([field, name], n) => ({ n, name, ms: ledger[field] ?? 0 }));
const sum = (stages) => stages.reduce((total, { ms }) => total + ms, 0);
const inWords = ({ number, by, stages }) =>
  `Turn ${number}, answered by ${by}: ${sum(stages)} ms; ` +
  stages.filter(({ ms }) => ms).map(({ name, ms }) => `${name} ${ms} ms`).join(", ");

// Adds the ledger of an answer that was heard; returns the time to its first sound.
export function addTurn(ledger) {
  if (ledger?.commit_to_first_audio_ms == null) return null;
  const stages = stagesOf(ledger);
  const number = (turns.at(-1)?.number ?? 0) + 1;
  turns.push({ number, by: BY[ledger.answered_by] ?? "–", stages });
  turns.splice(0, turns.length - TURNS_MAX);
  draw();
  tabulate();
  return sum(stages);
}

export function clearTurns() {
  turns.length = 0;
  document.getElementById("chart").replaceChildren();
  document.getElementById("rows").replaceChildren();
  document.getElementById("figures").hidden = true;
}

function draw() {
  const longest = Math.max(...turns.map(({ stages }) => sum(stages)), 1);
  const scale = (WIDTH - LEFT - RIGHT) / longest;
  const height = turns.length * ROW + 4;
  const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${height}`, role: "img", "aria-label": turns.map(inWords).join(". ") });
  svg.append(element("line", { x1: LEFT, x2: LEFT, y1: 0, y2: height, class: "axis" }));
  turns.forEach((turn, row) => {
    const y = row * ROW + 6;
    svg.append(element("text", { x: 0, y: y + 15 }, `Turn ${turn.number}`));
    let x = LEFT;
    for (const { n, name, ms } of turn.stages) {
      const width = ms * scale;
      if (width > 0) {
        const title = element("title", {}, `${name}: ${ms} ms`);
        svg.append(element("rect", { x, y, width: Math.max(width - 1, 0.5), height: 22, rx: 2, class: `stage-${n}` }, title));
      }
      x += width;
    }
    svg.append(element("text", { x: x + 8, y: y + 15 }, `${sum(turn.stages)} ms`));
  });
  const legend = html("ul");
  legend.setAttribute("aria-hidden", "true");
  STAGES.forEach(([, name], n) => {
    const entry = html("li", "", `stage-${n}`);
    entry.append(html("span", name));
    legend.append(entry);
  });
  document.getElementById("chart").replaceChildren(svg, legend);
}

function tabulate() {
  const head = (text) => Object.assign(html("th", text), { scope: "col" });
  const columns = ["Turn", ...STAGES.map(([, name]) => name), "together", "answered by"];
  document.getElementById("columns").replaceChildren(...columns.map(head));
  const row = ({ number, by, stages }) => {
    const made = document.createElement("tr");
    const cells = [...stages.map(({ ms }) => ms), sum(stages), by].map((text) => html("td", text));
    made.append(Object.assign(html("th", number), { scope: "row" }), ...cells);
    return made;
  };
  document.getElementById("rows").replaceChildren(...turns.map(row));
  document.getElementById("figures").hidden = false;
}
