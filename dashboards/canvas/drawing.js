// Drawing a waterfall: from a view (data, window of time, scroll, size, theme) onto a canvas; keeps no state.
const ROW = 22, MINIMAP = 44, AXIS = 22, TOP = MINIMAP + AXIS;

// kind -> [colour in light, in dark, mark, name]
const KIND = {
  queue: ["#a8a29e", "#78716c", "q", "queue"],
  prefill: ["#93c5fd", "#1e40af", "p", "prefill"],
  decode: ["#3b82f6", "#60a5fa", "◆", "decode"],
  fm: ["#60a5fa", "#3b82f6", "◆", "FM call"],
  transport: ["#cbd5e1", "#475569", "t", "transport"],
  tool: ["#10b981", "#34d399", "⚒", "tool"],
  retrieval: ["#0d9488", "#2dd4bf", "⌕", "retrieval"],
  cache: ["#84cc16", "#a3e635", "≡", "cache"],
  parse: ["#a78bfa", "#c4b5fd", "⋯", "parse"],
  code: ["#a1a1aa", "#71717a", "{}", "agent's code"],
  framework: ["#d4d4d8", "#52525b", "▢", "gaps"],
  person: ["#f472b6", "#f9a8d4", "☺", "person"],
  run: ["#d4d4d8", "#52525b", "▶", "run"],
  graph: ["#d4d4d8", "#52525b", "▣", "graph"],
  node: ["#d4d4d8", "#52525b", "●", "node"],
  barrier_wait: ["#f59e0b", "#fbbf24", "‖", "barrier wait"],
};

function themeOf(host) {
  const style = getComputedStyle(host);
  const get = (name, other) => style.getPropertyValue(name).trim() || other;
  const background = get("--st-background-color", "#ffffff");
  const [r, g, b] = (background.match(/\w\w/g) || ["ff", "ff", "ff"]).map((hex) => parseInt(hex, 16));
  const dark = r + g + b < 384;
  return {
    dark, background, key: `${background} ${dark}`,
    panel: get("--st-secondary-background-color", dark ? "#1e232b" : "#f5f5f4"),
    text: get("--st-text-color", dark ? "#e7e5e4" : "#1c1917"),
    border: get("--st-border-color", dark ? "#3b424d" : "#d6d3d1"),
    accent: get("--st-primary-color", dark ? "#fb923c" : "#c2410c"),
    muted: dark ? "#a1a1aa" : "#71717a",
    bad: dark ? "#f87171" : "#b91c1c",
    font: get("--st-font", "sans-serif"),
  };
}

function colour(view, kind) {
  return (KIND[kind] || KIND.code)[view.theme.dark ? 1 : 0];
}

function hatched(view, stroke) {
  const key = `hatch ${stroke}`;
  if (!view.patterns[key]) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const ink = tile.getContext("2d");
    ink.strokeStyle = stroke;
    ink.lineWidth = 1.3;
    ink.beginPath();
    for (const d of [-6, 0, 6]) {
      ink.moveTo(d, 6);
      ink.lineTo(d + 6, 0);
    }
    ink.stroke();
    view.patterns[key] = view.ink.createPattern(tile, "repeat");
  }
  return view.patterns[key];
}

function xOf(view, ns) {
  return view.label + ((ns - view.from) / (view.to - view.from)) * (view.width - view.label - 8);
}

function timeAt(view, x) {
  return view.from + ((x - view.label) / (view.width - view.label - 8)) * (view.to - view.from);
}

function bar(view, start, end, y, height, fill, least = 1) {
  const left = Math.max(view.label, xOf(view, start));
  const right = Math.min(view.width, xOf(view, end));
  if (right < view.label || left > view.width) return;
  view.ink.fillStyle = fill;
  view.ink.fillRect(left, y, Math.max(least, right - left), height);
}

function drawAxis(view) {
  const { ink, theme } = view;
  const rough = ((view.to - view.from) / Math.max(1, view.width - view.label)) * 110;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough) || rough;
  ink.font = `11px ${theme.font}`;
  ink.textBaseline = "middle";
  for (let t = Math.ceil(view.from / step) * step; t <= view.to; t += step) {
    const x = Math.round(xOf(view, t)) + 0.5;
    ink.strokeStyle = theme.border;
    ink.globalAlpha = 0.55;
    ink.beginPath();
    ink.moveTo(x, TOP - 6);
    ink.lineTo(x, view.height);
    ink.stroke();
    ink.globalAlpha = 0.8;
    ink.fillStyle = theme.text;
    ink.fillText(duration(t), x + 4, MINIMAP + AXIS / 2);
  }
  ink.globalAlpha = 1;
}

function drawRow(view, row, y) {
  const { ink, theme, data } = view;
  const kind = data.kinds[data.kind[row]];
  const critical = data.on_path[row] > 0;
  const middle = y + ROW / 2;
  if (row === view.selected || row === view.hovered) {
    ink.fillStyle = theme.text;
    ink.globalAlpha = row === view.selected ? 0.13 : 0.06;
    ink.fillRect(0, y, view.width, ROW);
    ink.globalAlpha = 1;
  }
  if (row === view.selected) {
    ink.fillStyle = theme.text;
    ink.fillRect(0, y, 3, ROW);
  }
  drawTimes(view, row, y, critical);
  // The label stands over whatever was drawn below it.
  ink.fillStyle = theme.background;
  ink.fillRect(0, y, view.label - 1, ROW);
  if (row === view.selected) {
    ink.fillStyle = theme.text;
    ink.globalAlpha = 0.13;
    ink.fillRect(0, y, view.label - 1, ROW);
    ink.globalAlpha = 1;
    ink.fillRect(0, y, 3, ROW);
  }
  const x = 8 + Math.min(data.depth[row], 12) * 13;
  ink.textBaseline = "middle";
  if (data.below[row] > row + 1) {
    ink.fillStyle = theme.text;
    ink.globalAlpha = 0.7;
    ink.font = `10px ${theme.font}`;
    ink.fillText(view.folded.has(data.id[row]) ? "▶" : "▼", x, middle);
    ink.globalAlpha = 1;
  }
  ink.font = `11px ${theme.font}`;
  ink.fillStyle = critical ? theme.accent : theme.text;
  ink.globalAlpha = critical ? 1 : 0.65;
  const mark = data.status[row] === 1 ? "✗" : (KIND[kind] || KIND.code)[2];
  ink.fillText(mark, x + 14, middle);
  ink.font = `${critical ? "600 " : ""}12.5px ${theme.font}`;
  ink.fillStyle = data.status[row] === 1 ? theme.bad : theme.text;
  ink.globalAlpha = critical ? 1 : 0.72;
  let name = data.names[data.name[row]];
  if (view.folded.has(data.id[row])) name += ` (+${data.below[row] - row - 1})`;
  ink.fillText(clipped(view, name, view.label - x - 38), x + 32, middle);
  ink.globalAlpha = 1;
}

function clipped(view, text, width) {
  if (view.ink.measureText(text).width <= width) return text;
  let fits = Math.max(1, Math.floor((text.length * width) / view.ink.measureText(text).width) - 1);
  while (fits > 1 && view.ink.measureText(`${text.slice(0, fits)}…`).width > width) fits--;
  return `${text.slice(0, fits)}…`;
}

function drawTimes(view, row, y, critical) {
  const { ink, theme, data } = view;
  const leaf = data.below[row] === row + 1;
  const top = y + 5, height = leaf ? 10 : 6, stop = data.stop[row];
  ink.globalAlpha = critical || !view.dim ? 1 : 0.6;
  if (!leaf || data.parts.first[row] === data.parts.first[row + 1]) {
    bar(view, data.start[row], stop, leaf ? top : top + 2, leaf ? height : 3, colour(view, data.kinds[data.kind[row]]));
  }
  for (let n = data.parts.first[row]; n < data.parts.first[row + 1]; n++) {
    bar(view, data.parts.start[n], data.parts.end[n], top, height, colour(view, data.kinds[data.parts.kind[n]]));
  }
  ink.globalAlpha = 1;
  for (let n = data.gaps.first[row]; n < data.gaps.first[row + 1]; n++) {
    bar(view, data.gaps.start[n], data.gaps.end[n], top, height, hatched(view, theme.muted), 0);
  }
  if (data.status[row] === 2) {  // still open: a ragged end
    const x = xOf(view, stop);
    ink.fillStyle = theme.text;
    if (x > view.label) for (let d = 0; d < 3; d++) ink.fillRect(x + 2 + d * 4, top + height / 2 - 1, 2, 2);
  }
  const float = data.slack[row];
  let right = xOf(view, stop);
  if (float > 0) {
    const until = Math.min(stop + float, data.until);
    const from = Math.max(view.label, right), to = Math.min(view.width - 2, xOf(view, until));
    if (to > from + 1) {
      ink.strokeStyle = theme.muted;
      ink.lineWidth = 1.2;
      ink.setLineDash(data.barrier[row] ? [2, 3] : []);
      ink.beginPath();
      ink.moveTo(from, y + 10);
      ink.lineTo(to, y + 10);
      ink.stroke();
      ink.setLineDash([]);
      ink.beginPath();
      ink.moveTo(to, y + 6);
      ink.lineTo(to, y + 14);
      if (data.barrier[row]) {
        ink.moveTo(to - 3, y + 6);
        ink.lineTo(to - 3, y + 14);
      }
      ink.stroke();
      right = Math.max(right, to);
    }
  }
  if (leaf && right > view.label && right < view.width - 60) {
    ink.font = `11px ${theme.font}`;
    ink.textBaseline = "middle";
    ink.fillStyle = theme.text;
    ink.globalAlpha = critical ? 0.95 : 0.55;
    const words = data.status[row] === 2 ? "running" : duration(stop - data.start[row]);
    ink.fillText(words, right + 6, y + 11);
    ink.globalAlpha = 1;
  }
}

function drawPath(view, rowY) {
  const { ink, theme, data } = view;
  const { path } = data;
  ink.strokeStyle = theme.accent;
  ink.lineWidth = 1.6;
  let before = null;
  for (let n = 0; n < path.row.length; n++) {
    const y = rowY(path.row[n]);
    if (path.end[n] < view.from || path.start[n] > view.to) {
      before = y;
      continue;
    }
    const line = y + 17;
    if (before !== null && before !== y && !(Math.max(before, y) < TOP || Math.min(before, y) > view.height)) {
      const x = Math.max(view.label, xOf(view, path.start[n]));
      ink.beginPath();
      ink.moveTo(x, Math.max(TOP, before + 17));
      ink.lineTo(x, Math.min(view.height, line));
      if (x > view.label) ink.stroke();
    }
    before = y;
    if (line < TOP || line > view.height + ROW) continue;
    bar(view, path.start[n], path.end[n], y + 15, 4, path.gap[n] ? hatched(view, theme.accent) : theme.accent, 1.5);
    if (path.wait[n] > 0) {
      bar(view, path.end[n] - path.wait[n], path.end[n], y + 3, 2, colour(view, "barrier_wait"));
      const x = xOf(view, path.end[n]);
      if (x > view.label) {
        ink.font = `11px ${theme.font}`;
        ink.fillStyle = colour(view, "barrier_wait");
        ink.fillText("‖", x - 4, y + 5);
      }
    }
  }
}

function drawDeadline(view) {
  const { ink, theme, data } = view;
  if (data.deadline === null || data.deadline === undefined) return;
  const x = xOf(view, data.deadline);
  if (x < view.label || x > view.width) return;
  ink.strokeStyle = theme.bad;
  ink.lineWidth = 1.5;
  ink.setLineDash([6, 4]);
  ink.beginPath();
  ink.moveTo(x, MINIMAP);
  ink.lineTo(x, view.height);
  ink.stroke();
  ink.setLineDash([]);
  ink.font = `600 11px ${theme.font}`;
  ink.fillStyle = theme.bad;
  ink.textBaseline = "middle";
  const words = `SLO ${duration(data.deadline)}`;
  const width = ink.measureText(words).width + 8;
  const left = x + width > view.width ? x - width : x;
  ink.fillStyle = theme.background;
  ink.fillRect(left + 1, MINIMAP + 3, width - 2, 15);
  ink.fillStyle = theme.bad;
  ink.fillText(words, left + 4, MINIMAP + AXIS / 2);
}

// All rows as lines, drawn once for each size and theme.
function minimapOf(view) {
  const { data, theme } = view;
  const image = document.createElement("canvas");
  const width = Math.max(1, view.width - 8), height = MINIMAP - 8;
  image.width = width * view.scale;
  image.height = height * view.scale;
  const ink = image.getContext("2d");
  ink.scale(view.scale, view.scale);
  const rows = data.id.length, thick = Math.max(0.7, Math.min(4, height / Math.max(rows, 1) - 0.3));
  const x = (ns) => (ns / view.all) * width, y = (row) => 1 + (row / Math.max(rows, 1)) * (height - 4);
  ink.globalAlpha = rows > 500 ? 0.35 : 0.8;
  for (let row = 0; row < rows; row++) {
    if (data.below[row] > row + 1 && rows > 3) continue;
    const first = data.parts.first[row], last = data.parts.first[row + 1] - 1;
    const kind = first <= last ? data.kinds[data.parts.kind[Math.max(first, last - 1)]] : data.kinds[data.kind[row]];
    ink.fillStyle = colour(view, kind);
    ink.fillRect(x(data.start[row]), y(row), Math.max(0.6, x(data.stop[row]) - x(data.start[row])), thick);
  }
  ink.globalAlpha = 1;
  ink.fillStyle = theme.accent;
  const { path } = data;
  for (let n = 0; n < path.row.length; n++) {
    ink.fillRect(x(path.start[n]), y(path.row[n]), Math.max(0.8, x(path.end[n]) - x(path.start[n])), Math.max(1.5, thick));
  }
  if (data.deadline !== null && data.deadline <= view.all) {
    ink.fillStyle = theme.bad;
    ink.fillRect(x(data.deadline), 0, 1.2, height);
  }
  return image;
}

function drawMinimap(view) {
  const { ink, theme } = view;
  const key = `${view.width} ${theme.key} ${view.stamp}`;
  if (view.minimapKey !== key) {
    view.minimap = minimapOf(view);
    view.minimapKey = key;
  }
  ink.fillStyle = theme.panel;
  ink.fillRect(0, 0, view.width, MINIMAP - 2);
  ink.drawImage(view.minimap, 4, 4, view.width - 8, MINIMAP - 8);
  const x = (ns) => 4 + (ns / view.all) * (view.width - 8);
  const left = Math.max(0, x(view.from)), right = Math.min(view.width, x(view.to));
  if (view.to - view.from < view.all * 0.999) {
    ink.fillStyle = theme.text;
    ink.globalAlpha = 0.18;
    ink.fillRect(0, 0, left, MINIMAP - 2);
    ink.fillRect(right, 0, view.width - right, MINIMAP - 2);
    ink.globalAlpha = 1;
  }
  ink.strokeStyle = theme.text;
  ink.lineWidth = 1;
  ink.strokeRect(left + 0.5, 0.5, Math.max(2, right - left - 1), MINIMAP - 3);
}

function drawWaterfall(view) {
  const { ink, theme, data, shown } = view;
  ink.setTransform(view.scale, 0, 0, view.scale, 0, 0);
  ink.fillStyle = theme.background;
  ink.fillRect(0, 0, view.width, view.height);
  drawAxis(view);
  ink.save();
  ink.beginPath();
  ink.rect(0, TOP, view.width, view.height - TOP);
  ink.clip();
  const first = Math.max(0, Math.floor(view.scroll / ROW));
  const last = Math.min(shown.length, Math.ceil((view.scroll + view.height - TOP) / ROW));
  for (let n = first; n < last; n++) drawRow(view, shown[n], TOP + n * ROW - view.scroll);
  drawPath(view, (row) => TOP + view.place[row] * ROW - view.scroll);
  ink.restore();
  ink.strokeStyle = theme.border;
  ink.lineWidth = 1;
  ink.beginPath();
  ink.moveTo(view.label - 0.5, MINIMAP);
  ink.lineTo(view.label - 0.5, view.height);
  ink.stroke();
  drawDeadline(view);
  drawMinimap(view);
}
