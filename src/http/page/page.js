// Keeps the page that the server rendered up to date: four events per second, or one request per second if no stream is available.
"use strict";

const PARTS = 1200;
const POLL = 1000;
const NEAR = 0.75;

const alarm = document.getElementById("alarm");
const connection = document.getElementById("connection");
const body = document.querySelector("tbody");
const template = document.querySelector("template");
const rows = new Map();
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    const row = rows.get(entry.target.closest("tr").dataset.name);
    if (row) row.visible = entry.isIntersecting;
  }
});
let newest = 0;
let latest = null;

document.documentElement.classList.add("js");
for (const element of body.rows) adopt(element);
document.addEventListener("visibilitychange", () => latest && show(latest));
listen();

function adopt(element) {
  const [, waiting, plot, peak, full, oldest, refused, drops] = element.cells;
  const row = {
    element, peak, full, oldest, refused, drops,
    meter: waiting.querySelector("meter"),
    waiting: waiting.querySelector("span"),
    limit: waiting.querySelector("small"),
    canvas: plot.querySelector("canvas"),
    // A ring by the number of the part; -1 where no round saw the listener.
    peaks: new Int32Array(PARTS).fill(-1),
    visible: true,
  };
  rows.set(element.dataset.name, row);
  seen.observe(row.canvas);
  return row;
}

function listen() {
  const stream = new EventSource("-/stream");
  stream.onmessage = (event) => {
    tell("Live.", false);
    take(JSON.parse(event.data));
  };
  stream.onerror = () => {
    if (stream.readyState === EventSource.CLOSED) poll();
    else tell("Connection lost; reconnecting.", true);
  };
}

async function poll() {
  try {
    const answer = await fetch(`api/v1/listeners?since=${newest}`);
    if (!answer.ok) throw new Error(String(answer.status));
    take(await answer.json());
    tell("Updated once a second, because the maximum number of live pages is open.", false);
  } catch {
    tell("Connection lost; reconnecting.", true);
  }
  setTimeout(poll, POLL);
}

function tell(text, lost) {
  if (connection.textContent !== text) connection.textContent = text;
  connection.classList.toggle("lost", lost);
}

function take(report) {
  const { first, peaks } = report.recent;
  const names = new Set(report.listeners.map(title));
  for (const [name, row] of rows) {
    if (names.has(name)) continue;
    seen.unobserve(row.canvas);
    row.element.remove();
    rows.delete(name);
  }
  const count = Math.max(0, ...Object.values(peaks).map((list) => list.length));
  if (first + count < newest) for (const row of rows.values()) row.peaks.fill(-1);
  newest = first + count;
  let before = null;
  for (const listener of report.listeners) {
    const name = title(listener);
    const row = rows.get(name) ?? insert(name, before);
    before = row.element;
    (peaks[name] ?? []).forEach((peak, index) => {
      row.peaks[(first + index) % PARTS] = peak ?? -1;
    });
  }
  latest = report;
  if (!document.hidden) show(report);
}

function insert(name, before) {
  const element = template.content.firstElementChild.cloneNode(true);
  element.dataset.name = name;
  element.cells[0].textContent = name;
  if (before) before.after(element);
  else body.prepend(element);
  return adopt(element);
}

function show(report) {
  const full = report.listeners.filter((listener) => listener.full).map(title);
  document.body.classList.toggle("full", full.length > 0);
  alarm.hidden = full.length === 0;
  write(alarm.querySelector("span"), full.join(", "));
  document.title = full.length > 0 ? `FULL: ${full.join(", ")}` : "listen-queue-exporter";
  const style = getComputedStyle(document.documentElement);
  const colours = ["--bar", "--near", "--full", "--line"].map((name) => style.getPropertyValue(name));
  for (const listener of report.listeners) {
    const row = rows.get(title(listener));
    fill(row, listener);
    if (row.visible) draw(row, listener, colours);
  }
}

function fill(row, listener) {
  const up = listener.state === "up";
  row.element.className = up ? (listener.full ? "full" : "") : "missing";
  row.meter.max = up ? (listener.capacity ?? listener.capacity_at_most ?? 1) : 1;
  row.meter.low = NEAR * row.meter.max;
  row.meter.high = row.meter.max - 1;
  row.meter.value = up ? listener.depth : 0;
  const waiting = listener.capacity === undefined ? text(listener.depth) : `${listener.depth} of ${listener.capacity}`;
  write(row.waiting, up ? waiting : listener.reason);
  write(row.peak, text(listener.depth_peak));
  write(row.full, seconds(listener.full_seconds));
  write(row.oldest, seconds(listener.oldest_wait_seconds));
  write(row.refused, text(highest(listener.refused_connects)));
  write(row.drops, text(listener.drops));
  write(row.limit, [listener.stuck_member, listener.limit].filter(Boolean).join("; "));
}

function draw(row, listener, [bar, near, full, line]) {
  const { canvas, peaks } = row;
  const scale = window.devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (width === 0) return;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  // If the limit is unknown, the line is its upper bound.
  const capacity = listener.capacity ?? listener.capacity_at_most ?? 1;
  const highestPeak = peaks.reduce((a, b) => Math.max(a, b), 0);
  const top = Math.max(capacity, highestPeak) * 1.05;
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, width, height);
  for (let x = 0; x < width; x++) {
    // The highest of all parts in this column, so that none is omitted.
    const from = Math.floor((x * PARTS) / width);
    const to = Math.max(from + 1, Math.floor(((x + 1) * PARTS) / width));
    let peak = -1;
    for (let part = from; part < to; part++) {
      const number = newest - PARTS + part;
      if (number >= 0) peak = Math.max(peak, peaks[number % PARTS]);
    }
    if (peak <= 0) continue;
    context.fillStyle = peak >= capacity ? full : peak >= NEAR * capacity ? near : bar;
    const tall = Math.max(1, (peak / top) * height);
    context.fillRect(x, height - tall, 1, tall);
  }
  context.fillStyle = line;
  context.fillRect(0, Math.round(height - (capacity / top) * height), width, Math.max(1, scale));
  const limit = listener.capacity === undefined ? "the limit is unknown" : `full at ${capacity}`;
  const label = `depth in the last five minutes: highest ${highestPeak}, ${limit}`;
  if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
}

// Its name and, if there are several network namespaces, its location.
function title(listener) {
  return listener.title ?? listener.name;
}

function write(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

function text(value) {
  return value === undefined ? "" : String(value);
}

function seconds(value) {
  return value === undefined ? "" : `${value.toFixed(2)} s`;
}

function highest(bySource) {
  return bySource && Math.max(...Object.values(bySource));
}
