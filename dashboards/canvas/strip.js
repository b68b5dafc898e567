// The token strip: above, the call in time (phases, a tick for each token); below, the gap before each token.
const strips = new WeakMap();
const PHASES = 26, TICKS = 34, AXIS_ROW = 20, UPPER = PHASES + TICKS + AXIS_ROW, LOWER = 150;

function draw(view) {
  const { ink, theme, data, width } = view;
  const scale = window.devicePixelRatio || 1, height = UPPER + LOWER + 34;
  view.canvas.width = width * scale;
  view.canvas.height = height * scale;
  view.canvas.style.height = `${height}px`;
  view.patterns = {};
  ink.setTransform(scale, 0, 0, scale, 0, 0);
  ink.fillStyle = theme.background;
  ink.fillRect(0, 0, width, height);
  ink.font = `11px ${theme.font}`;
  ink.textBaseline = "middle";
  const x = (ns) => 6 + (ns / Math.max(1, data.total)) * (width - 12);
  view.x = x;
  for (const [kind, start, end] of data.phases) {
    ink.fillStyle = kind === "transport" ? hatched(view, theme.muted) : colour(view, kind);
    ink.fillRect(x(start), 2, Math.max(1, x(end) - x(start)), PHASES - 8);
    const words = `${(KIND[kind] || KIND.code)[3]} ${duration(end - start)}`;
    if (ink.measureText(words).width + 10 < x(end) - x(start)) {
      ink.fillStyle = kind === "transport" ? theme.background : colour(view, kind);
      ink.fillRect(x(start) + 3, 5, ink.measureText(words).width + 6, PHASES - 14);
      ink.fillStyle = kind === "transport" || (theme.dark ? kind === "decode" || kind === "fm" : kind === "prefill") ? theme.text : "#ffffff";
      if (theme.dark && (kind === "decode" || kind === "fm")) ink.fillStyle = "#0b1220";
      ink.fillText(words, x(start) + 6, PHASES / 2 - 2);
    }
  }
  const low = new Set(data.low), stalled = new Set(data.stalls);
  data.times.forEach((t, n) => {
    const p = data.p[n] ?? 1, tall = 6 + (TICKS - 12) * p;
    ink.fillStyle = low.has(n) ? theme.bad : stalled.has(n) ? theme.accent : theme.text;
    ink.globalAlpha = low.has(n) || stalled.has(n) ? 1 : 0.6;
    ink.fillRect(x(t), PHASES + TICKS - tall - 2, 1.2, tall);
    ink.globalAlpha = 1;
    if (low.has(n) && data.low.length < width / 8) ink.fillText("▾", x(t) - 3, PHASES + TICKS - tall - 6);
  });
  if (data.times.length) {
    const first = data.times[0];
    ink.fillStyle = theme.text;
    ink.globalAlpha = 0.75;
    const words = `first ${data.per} ${duration(first)}`;
    const left = Math.min(x(first), width - ink.measureText(words).width - 6);
    ink.fillText(words, Math.max(4, left), PHASES + TICKS + 8);
    ink.globalAlpha = 1;
  }
  drawGaps(view, stalled, low);
}

function drawGaps(view, stalled, low) {
  const { ink, theme, data, width } = view;
  const top = UPPER + 8, bottom = UPPER + LOWER, count = data.gaps.length;
  if (count < 2) return;
  const most = Math.max(1, ...data.gaps.filter((gap) => gap !== null)), each = (width - 70) / count;
  const y = (gap) => bottom - (Math.sqrt(gap) / Math.sqrt(most)) * (bottom - top - 12);
  view.lower = { left: 60, each, top, bottom };
  ink.strokeStyle = theme.border;
  for (const gap of [data.median, most]) {
    ink.beginPath();
    ink.setLineDash([3, 3]);
    ink.moveTo(60, y(gap));
    ink.lineTo(width - 6, y(gap));
    ink.stroke();
    ink.setLineDash([]);
    ink.fillStyle = theme.text;
    ink.globalAlpha = 0.75;
    ink.fillText(duration(gap), 4, y(gap));
    ink.globalAlpha = 1;
  }
  let free = 0;  // words over words cannot be read
  data.gaps.forEach((gap, n) => {
    if (gap === null) return;
    const left = 60 + n * each, wide = Math.max(0.8, each - (each > 4 ? 1 : 0));
    ink.fillStyle = stalled.has(n) ? theme.accent : colour(view, "decode");
    ink.globalAlpha = stalled.has(n) ? 1 : 0.75;
    ink.fillRect(left, y(gap), wide, bottom - y(gap));
    ink.globalAlpha = 1;
    if (stalled.has(n) && left > free) {
      free = left + 78;
      ink.fillStyle = theme.accent;
      ink.fillText(`stall ${duration(gap)}`, Math.min(left, width - 90), y(gap) - 7);
    }
    if (low.has(n)) {
      ink.fillStyle = theme.bad;
      ink.fillText("▲", left + wide / 2 - 4, bottom + 7);
    }
  });
  ink.fillStyle = theme.text;
  ink.globalAlpha = 0.65;
  ink.fillText(`gap before each ${data.per} (square-root scale)   dashed: median, longest   ▲ unlikely`, 60, bottom + 22);
  ink.globalAlpha = 1;
}

function describe(view, event) {
  const { data, tip, lower } = view;
  let n = -1;
  if (event.offsetY < UPPER) {
    let best = 6;
    data.times.forEach((t, at) => {
      const away = Math.abs(view.x(t) - event.offsetX);
      if (away < best) [n, best] = [at, away];
    });
  } else if (lower && event.offsetY < lower.bottom + 14) n = Math.floor((event.offsetX - lower.left) / lower.each);
  if (n < 0 || n >= data.times.length) {
    tip.hidden = true;
    return;
  }
  const words = [`${data.per} ${n}${data.per === "token" && data.ids[n] !== undefined ? ` · id ${data.ids[n]}` : ""}`];
  words.push(`${duration(data.times[n])} after it was sent`);
  if (data.gaps[n] !== null && data.gaps[n] !== undefined) words.push(`gap ${duration(data.gaps[n])}`);
  if (data.p[n] !== undefined && data.per === "token") words.push(`p = ${data.p[n].toFixed(3)}`);
  tip.textContent = words.join("\n");
  tip.hidden = false;
  tip.style.left = `${Math.min(event.offsetX + 14, view.width - 200)}px`;
  tip.style.top = `${event.offsetY + 14}px`;
}

export default function (component) {
  const { parentElement, data } = component;
  const box = parentElement.querySelector(".strip");
  if (!box || !data) return undefined;
  let view = strips.get(box);
  if (!view) {
    view = { canvas: box.querySelector("canvas"), tip: box.querySelector(".tip") };
    view.ink = view.canvas.getContext("2d");
    view.canvas.onpointermove = (event) => describe(view, event);
    view.canvas.onpointerleave = () => { view.tip.hidden = true; };
    strips.set(box, view);
  }
  view.theme = themeOf(box);
  view.data = data;
  const paint = () => {
    view.width = box.clientWidth;
    if (!view.width) return;
    view.canvas.style.width = `${view.width}px`;
    draw(view);
    view.canvas.dataset.ready = String(data.times.length);
  };
  view.observer?.disconnect();
  view.observer = new ResizeObserver(() => requestAnimationFrame(paint));
  view.observer.observe(box);
  paint();
  return undoing(view, () => view.observer.disconnect());
}
