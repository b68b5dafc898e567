// Parallel coordinates: a line for each trial; drag along an axis to keep those that pass there, click to choose one.
const charts = new WeakMap(), brushed = new Map();
const HEAD = 34, FOOT = 44, LEAST = 96, SIDE = 46, TALL = 330;
const ORDER = ["dominated", "left the race", "misses the SLO", "on the front", "incumbent"];
const MARK = { "on the front": "◆", incumbent: "■", "misses the SLO": "✗", "left the race": "▹", dominated: "○" };

function lineOf(view, standing) {
  const { theme } = view;
  if (standing === "on the front") return [theme.accent, 2.2, [], 1];
  if (standing === "incumbent") return [theme.text, 2.4, [], 1];
  if (standing === "misses the SLO") return [theme.bad, 1, [5, 4], 0.55];
  if (standing === "left the race") return [theme.muted, 1, [2, 3], 0.6];
  return [theme.muted, 1, [], 0.5];
}

const places = (view) => {
  const { axes } = view.data, room = view.width - 2 * SIDE;
  return axes.map((_, n) => SIDE + (axes.length < 2 ? room / 2 : (n * room) / (axes.length - 1)));
};
const bottom = TALL - FOOT;
const yOf = (at) => (at === null ? bottom + 14 : bottom - at * (bottom - HEAD));

function kept(view, trial) {
  return [...view.brushes].every(([name, [low, high]]) => {
    const axis = view.data.axes.find((a) => a.name === name), at = axis?.at[trial];
    return !axis || (at !== null && at >= low && at <= high);
  });
}

function stroke(view, trial, xs, style) {
  const { ink, data } = view, [ink_, wide, dash, alpha] = style;
  ink.strokeStyle = ink_;
  ink.lineWidth = wide;
  ink.globalAlpha = alpha;
  ink.setLineDash(dash);
  ink.beginPath();
  data.axes.forEach((axis, n) => ink.lineTo(xs[n], yOf(axis.at[trial])));
  ink.stroke();
  ink.setLineDash([]);
  ink.globalAlpha = 1;
}

function fitted(ink, text, width) {
  if (ink.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && ink.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

function drawAxes(view, xs) {
  const { ink, theme, data } = view, each = xs.length > 1 ? xs[1] - xs[0] : view.width;
  ink.textBaseline = "middle";
  data.axes.forEach((axis, n) => {
    ink.strokeStyle = theme.text;
    ink.lineWidth = 1;
    ink.globalAlpha = 0.5;
    ink.beginPath();
    ink.moveTo(xs[n], HEAD - 4);
    ink.lineTo(xs[n], bottom + 4);
    ink.stroke();
    ink.globalAlpha = 1;
    ink.font = `${axis.knob ? "" : "600 "}12px ${theme.font}`;
    ink.fillStyle = theme.text;
    ink.textAlign = "center";
    ink.fillText(fitted(ink, axis.name, each - 6), xs[n], 12);
    ink.font = `11px ${theme.font}`;
    if (axis.at.includes(null)) {
      ink.globalAlpha = 0.7;
      ink.fillText("–", xs[n], bottom + 28);
      ink.globalAlpha = 1;
    }
    const brush = view.brushes.get(axis.name);
    if (brush) {
      ink.fillStyle = theme.accent;
      ink.globalAlpha = 0.28;
      ink.fillRect(xs[n] - 7, yOf(brush[1]), 14, yOf(brush[0]) - yOf(brush[1]));
      ink.globalAlpha = 1;
      ink.strokeStyle = theme.accent;
      ink.strokeRect(xs[n] - 7, yOf(brush[1]), 14, yOf(brush[0]) - yOf(brush[1]));
    }
    for (const [at, words] of axis.ticks) {
      const label = fitted(ink, words, Math.min(each - 16, 110)), wide = ink.measureText(label).width;
      ink.fillStyle = theme.background;
      ink.globalAlpha = 0.82;
      ink.fillRect(xs[n] - wide / 2 - 3, yOf(at) - 8, wide + 6, 16);
      ink.globalAlpha = 1;
      ink.fillStyle = theme.text;
      ink.fillText(label, xs[n], yOf(at));
    }
  });
  ink.textAlign = "left";
}

function paint(view) {
  const { canvas, ink, theme, data } = view;
  view.width = Math.max(view.box.clientWidth, LEAST * data.axes.length);
  if (!view.box.clientWidth) return;
  const scale = window.devicePixelRatio || 1;
  canvas.width = view.width * scale;
  canvas.height = TALL * scale;
  canvas.style.width = `${view.width}px`;
  canvas.style.height = `${TALL}px`;
  ink.setTransform(scale, 0, 0, scale, 0, 0);
  ink.fillStyle = theme.background;
  ink.fillRect(0, 0, view.width, TALL);
  const xs = places(view), shown = [];
  const order = data.trials.map((_, n) => n).sort((a, b) => ORDER.indexOf(data.standing[a]) - ORDER.indexOf(data.standing[b]));
  for (const n of order) {
    if (!kept(view, n)) stroke(view, n, xs, [theme.muted, 1, [], 0.07]);
    else shown.push(n);
  }
  for (const n of shown) stroke(view, n, xs, lineOf(view, data.standing[n]));
  for (const n of [view.hovered, data.trials.indexOf(view.selected)]) {
    if (n < 0 || n === undefined) continue;
    stroke(view, n, xs, [theme.background, 6, [], 0.8]);
    stroke(view, n, xs, [lineOf(view, data.standing[n])[0], 3.4, [], 1]);
  }
  drawAxes(view, xs);
  canvas.dataset.kept = String(shown.length);
  canvas.dataset.selected = view.selected ?? "";
  canvas.dataset.axes = xs.map((x) => Math.round(x)).join(" ");
  canvas.dataset.ready = String(data.trials.length);
  view.told.textContent = view.brushes.size
    ? `${shown.length} of ${data.trials.length} trials pass where you dragged; double click an axis to let go`
    : "drag along an axis: only trials that pass there · click a line, or press j and k: one trial";
}

function nearest(view, x, y) {
  const xs = places(view), { axes, trials } = view.data;
  let n = xs.findIndex((place) => place > x);
  if (n <= 0) n = n < 0 ? xs.length - 1 : 1;
  if (xs.length < 2) return -1;
  const part = Math.min(1, Math.max(0, (x - xs[n - 1]) / (xs[n] - xs[n - 1])));
  let best = -1, least = 9;
  for (let t = 0; t < trials.length; t++) {
    if (!kept(view, t)) continue;
    const here = yOf(axes[n - 1].at[t]) * (1 - part) + yOf(axes[n].at[t]) * part, away = Math.abs(here - y);
    if (away < least || (away === least && ORDER.indexOf(view.data.standing[t]) > ORDER.indexOf(view.data.standing[best]))) {
      [best, least] = [t, away];
    }
  }
  return best;
}

function axisAt(view, x) {
  return places(view).findIndex((place) => Math.abs(place - x) < 12);
}

function choose(view, trial) {
  view.selected = trial;
  paint(view);
  asked(view, trial);
  view.setStateValue("trial", trial);
}

function listen(view) {
  const { canvas } = view;
  canvas.onpointerdown = (event) => {
    view.drag = { axis: axisAt(view, event.offsetX), y: event.offsetY, moved: false };
    canvas.setPointerCapture(event.pointerId);
  };
  canvas.onpointermove = (event) => {
    const { drag } = view;
    if (drag && drag.axis >= 0 && Math.abs(event.offsetY - drag.y) > 4) {
      drag.moved = true;
      const at = (y) => Math.min(1, Math.max(0, (bottom - y) / (bottom - HEAD)));
      const ends = [at(drag.y), at(event.offsetY)].sort((a, b) => a - b);
      view.brushes.set(view.data.axes[drag.axis].name, ends);
      paint(view);
      return;
    }
    const hovered = nearest(view, event.offsetX, event.offsetY);
    canvas.style.cursor = axisAt(view, event.offsetX) >= 0 ? "row-resize" : hovered >= 0 ? "pointer" : "default";
    if (hovered !== view.hovered) {
      view.hovered = hovered;
      paint(view);
    }
    tell(view, event, hovered);
  };
  canvas.onpointerup = (event) => {
    const { drag } = view;
    view.drag = null;
    if (!drag || drag.moved) return;
    const found = nearest(view, event.offsetX, event.offsetY);
    if (found >= 0) choose(view, view.data.trials[found]);
  };
  canvas.ondblclick = (event) => {
    const axis = axisAt(view, event.offsetX);
    if (axis < 0) view.brushes.clear();
    else view.brushes.delete(view.data.axes[axis].name);
    paint(view);
  };
  canvas.onpointerleave = () => {
    view.hovered = -1;
    view.tip.hidden = true;
    paint(view);
  };
}

function tell(view, event, n) {
  const { tip, data } = view;
  tip.hidden = n < 0;
  if (n < 0) return;
  const words = [`trial ${data.trials[n]} · ${MARK[data.standing[n]] || ""} ${data.standing[n]}`];
  for (const axis of data.axes) words.push(`${axis.name}: ${axis.said[n]}`);
  tip.textContent = words.join("\n");
  tip.style.left = `${Math.min(event.offsetX + 16, view.width - 240)}px`;
  tip.style.top = `${Math.min(event.offsetY + 10, TALL - 18 * words.length)}px`;
}

function onKey(view, event) {
  if (typing(event) || (event.key !== "j" && event.key !== "k")) return;
  const { trials } = view.data, at = trials.indexOf(view.selected);
  const next = event.key === "j" ? at + 1 : at < 0 ? trials.length - 1 : at - 1;
  if (next >= 0 && next < trials.length) choose(view, trials[next]);
}

function legendOf(view) {
  view.legend.textContent = "";
  for (const standing of [...ORDER].reverse()) {
    const count = view.data.standing.filter((s) => s === standing).length;
    if (!count) continue;
    const item = document.createElement("span"), mark = document.createElement("b");
    mark.textContent = MARK[standing];
    mark.style.color = lineOf(view, standing)[0];
    item.append(mark, ` ${standing} (${count})`);
    view.legend.append(item);
  }
}

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".parallel");
  if (!box || !data) return undefined;
  let view = charts.get(box);
  if (!view) {
    const find = (name) => parentElement.querySelector(name);
    view = { box: find(".frame"), canvas: find("canvas"), tip: find(".tip"), legend: find(".legend"), told: find(".told"), hovered: -1, patterns: {} };
    view.ink = view.canvas.getContext("2d");
    charts.set(box, view);
    listen(view);
  }
  if (!brushed.has(data.study)) brushed.set(data.study, new Map());
  if (view.data?.study !== data.study) Object.assign(view, { heard: undefined, asked: [] });
  if (news(view, data.selected)) view.selected = data.selected;
  Object.assign(view, { data, setStateValue, theme: themeOf(box), brushes: brushed.get(data.study) });
  legendOf(view);
  view.observer?.disconnect();
  view.observer = new ResizeObserver(() => requestAnimationFrame(() => paint(view)));
  view.observer.observe(view.box);
  document.removeEventListener("keydown", view.onKey);
  view.onKey = (event) => onKey(view, event);
  document.addEventListener("keydown", view.onKey);
  paint(view);
  return undoing(view, () => {
    document.removeEventListener("keydown", view.onKey);
    view.observer.disconnect();
  });
}
