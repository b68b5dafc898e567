// The waterfall: holds what is in view, folded and selected; draws when something changed. Only a selection goes to Python.
const views = new WeakMap();
const left = new Map();  // run -> what was in view when the drawing was taken away and made anew

// The rows that are not folded away, and where each row stands (a hidden one at the row that hides it).
function arrange(view) {
  const { data } = view;
  const shown = [], place = new Int32Array(data.id.length);
  for (let row = 0; row < data.id.length; ) {
    const hidden = view.pathOnly && !view.lead[row];
    if (!hidden) shown.push(row);
    place[row] = Math.max(0, shown.length - 1);
    if (!hidden && view.folded.has(data.id[row])) {
      for (let inner = row; inner < data.below[row]; inner++) place[inner] = shown.length - 1;
      row = data.below[row];
    } else row++;
  }
  view.shown = shown;
  view.place = place;
  view.spacer.style.height = `${shown.length * ROW + TOP}px`;
}

function adopt(view, data) {
  const other = view.data?.run !== data.run;
  view.data = data;
  view.stamp = (view.stamp || 0) + 1;
  view.row = new Map(data.id.map((id, row) => [id, row]));
  const late = data.deadline !== null && data.deadline <= data.until * 2 ? data.deadline : 0;
  view.all = Math.max(1, data.until, late) * 1.02;
  if (other) {
    view.folded = new Set();
    view.scroll = view.scroller.scrollTop = 0;
    view.pathOnly = false;
    view.fit = true;
    view.selectedId = null;
    view.heard = undefined;
    view.asked = [];
    const kept = left.get(data.run);
    if (kept) {
      Object.assign(view, kept);
      view.landing = kept.scroll;
      if (kept.unsaid) report(view);  // chosen in the moment before
    }
  }
  if (view.fit) [view.from, view.to] = [0, view.all];
  // Rows that are on the path, or lead to one that is.
  view.lead = new Uint8Array(data.id.length);
  const above = [];
  for (let row = 0; row < data.id.length; row++) {
    while (above.length && data.below[above[above.length - 1]] <= row) above.pop();
    above.push(row);
    if (data.on_path[row] > 0) for (const a of above) view.lead[a] = 1;
  }
  if (news(view, data.selected) && data.selected !== view.selectedId && !view.timer) {
    view.selectedId = data.selected && view.row.has(data.selected) ? data.selected : null;
    view.reveal = true;
  }
  view.selected = view.row.get(view.selectedId) ?? -1;
  arrange(view);
}

function redraw(view) {
  if (view.due) return;
  view.due = requestAnimationFrame(() => {
    view.due = 0;
    const begin = performance.now();
    const width = view.box.clientWidth, height = view.box.clientHeight;
    if (!width || !height) return;
    const scale = window.devicePixelRatio || 1;
    if (view.width !== width || view.height !== height || view.scale !== scale) {
      Object.assign(view, { width, height, scale });
      view.canvas.width = width * scale;
      view.canvas.height = height * scale;
      view.canvas.style.width = `${width}px`;
      view.canvas.style.height = `${height}px`;
      view.label = Math.max(110, Math.min(300, width * 0.26));
      view.patterns = {};
    }
    if (view.landing !== undefined) view.scroller.scrollTop = view.landing;
    view.landing = undefined;
    if (view.reveal && view.selected >= 0) reveal(view);
    view.reveal = false;
    view.scroll = view.scroller.scrollTop;
    drawWaterfall(view);
    view.canvas.dataset.path = String(view.data.path.row.length);
    view.canvas.dataset.ready = "1";
    view.canvas.dataset.window = `${Math.round(view.from)} ${Math.round(view.to)}`;
    view.canvas.dataset.rows = String(view.shown.length);
    view.canvas.dataset.selected = view.selectedId || "";
    view.canvas.dataset.drawMs = (performance.now() - begin).toFixed(2);
  });
}

function reveal(view) {
  const row = view.selected, { data } = view;
  let unfolded = false;
  for (let above = 0; above < row; above++) {
    if (data.below[above] > row && view.folded.delete(data.id[above])) unfolded = true;
  }
  if (view.pathOnly && !view.lead[row]) {
    view.pathOnly = false;
    unfolded = true;
  }
  if (unfolded) arrange(view);
  const y = view.place[row] * ROW, room = view.height - TOP;
  if (y < view.scroller.scrollTop) view.scroller.scrollTop = Math.max(0, y - ROW * 2);
  else if (y + ROW > view.scroller.scrollTop + room) view.scroller.scrollTop = y - room + ROW * 3;
  const start = data.start[row], stop = data.stop[row], length = view.to - view.from;
  if (stop < view.from || start > view.to) look(view, (start + stop) / 2 - length / 2, (start + stop) / 2 + length / 2);
}

// Tell Python; keys held down tell it once.
function report(view) {
  clearTimeout(view.timer);
  view.timer = setTimeout(() => {
    view.timer = 0;
    asked(view, view.selectedId);
    view.setStateValue("step", view.selectedId || "");
  }, 140);
}

function select(view, row) {
  const id = row >= 0 ? view.data.id[row] : null;
  view.selected = row;
  if (id !== view.selectedId) {
    view.selectedId = id;
    report(view);
  }
  view.reveal = true;
  redraw(view);
}

function look(view, from, to) {
  const length = Math.min(view.all, Math.max(200, to - from));
  view.from = Math.min(Math.max(0, from), view.all - length);
  view.to = view.from + length;
  view.fit = length >= view.all * 0.999;
  redraw(view);
}

function zoom(view, factor, x) {
  const at = x === undefined ? (view.from + view.to) / 2 : timeAt(view, x);
  look(view, at - (at - view.from) * factor, at + (view.to - at) * factor);
}

// A step with a little of what was around it; without one, all of the run.
function zoomTo(view, row) {
  if (row < 0) return look(view, 0, view.all);
  const length = Math.max(1, view.data.stop[row] - view.data.start[row]);
  return look(view, view.data.start[row] - length * 0.15, view.data.stop[row] + length * 0.25);
}

function fold(view, row, folded) {
  if (row < 0 || view.data.below[row] === row + 1) return;
  if (folded) view.folded.add(view.data.id[row]);
  else view.folded.delete(view.data.id[row]);
  arrange(view);
  redraw(view);
}

function foldAll(view) {
  const { data } = view, tops = data.id.filter((_, row) => row && data.below[row] > row + 1);
  if (tops.every((id) => view.folded.has(id))) view.folded.clear();
  else tops.forEach((id) => view.folded.add(id));
  arrange(view);
  redraw(view);
}

function move(view, by) {
  if (view.selected < 0) return select(view, view.shown[by > 0 ? 0 : view.shown.length - 1] ?? -1);
  const next = view.place[view.selected] + by;
  return select(view, view.shown[Math.max(0, Math.min(view.shown.length - 1, next))] ?? -1);
}

// To the next (or the last) step that was at work on the path, seen from the selected one.
function alongPath(view, by) {
  const { path } = view.data, order = [];
  for (let n = 0; n < path.row.length; n++) {
    const row = path.row[n];
    if (!path.gap[n] && (view.data.below[row] === row + 1 || path.row.length < 3) && order[order.length - 1] !== row) order.push(row);
  }
  if (!order.length) return;
  const at = order.indexOf(view.selected);
  if (at >= 0) return select(view, order[(at + by + order.length) % order.length]);
  const now = view.selected < 0 ? -1 : view.data.start[view.selected];
  const next = order.find((row) => view.data.start[row] > now);
  select(view, next === undefined ? order[0] : next);
}

function onKey(view, event) {
  if (typing(event) || !view.canvas.isConnected || document.getElementById("redecode-help")) return;
  const does = {
    j: () => move(view, 1), k: () => move(view, -1), c: () => alongPath(view, 1), C: () => alongPath(view, -1),
    "[": () => fold(view, view.selected, true), "]": () => fold(view, view.selected, false),
    f: () => look(view, 0, view.all), "+": () => zoom(view, 0.7), "=": () => zoom(view, 0.7), "-": () => zoom(view, 1 / 0.7),
    p: () => togglePath(view), z: () => zoomTo(view, view.selected), Escape: () => select(view, -1),
  }[event.key];
  if (!does) return;
  event.preventDefault();
  does();
}

function togglePath(view) {
  view.pathOnly = !view.pathOnly;
  arrange(view);
  redraw(view);
  legend(view);
}

function rowAt(view, event) {
  const y = event.offsetY;
  if (y < TOP) return -1;
  return view.shown[Math.floor((y - TOP + view.scroll) / ROW)] ?? -1;
}

function tell(view, event, row) {
  const { tip, data } = view;
  if (row < 0 || view.drag) {
    tip.hidden = true;
    return;
  }
  const words = [`${data.names[data.name[row]]} · ${(KIND[data.kinds[data.kind[row]]] || KIND.code)[3]}`];
  words.push(`${duration(data.stop[row] - data.start[row])}, from ${duration(data.start[row])}`);
  if (data.on_path[row] > 0) words.push(`critical path: ${duration(data.on_path[row])} of it here`);
  else if (data.slack[row] > 0) words.push(`total float ${duration(data.slack[row])}: so much later, and the run ends no later`);
  if (data.barrier[row] && data.slack[row] > 0) words.push("then it waited at a barrier");
  if (data.status[row] === 1) words.push("failed");
  tip.textContent = words.join("\n");
  tip.hidden = false;
  tip.style.left = `${Math.min(event.offsetX + 14, view.width - 260)}px`;
  tip.style.top = `${Math.min(event.offsetY + 18, view.height - 70)}px`;
}

function listen(view) {
  const { canvas } = view;
  canvas.onwheel = (event) => {
    if (event.offsetX < view.label && !event.ctrlKey) return;  // rows scroll
    if (event.shiftKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) {
      event.preventDefault();
      const by = ((event.deltaX || event.deltaY) / view.width) * (view.to - view.from);
      look(view, view.from + by, view.to + by);
      return;
    }
    if (event.deltaY > 0 && view.fit) return;  // nothing left to see: the page scrolls
    event.preventDefault();
    zoom(view, Math.exp(Math.max(-120, Math.min(120, event.deltaY)) * 0.0035), event.offsetX);
  };
  canvas.onpointerdown = (event) => {
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    view.drag = { x: event.offsetX, y: event.offsetY, from: view.from, to: view.to, top: view.scroller.scrollTop, moved: false };
    view.drag.mini = event.offsetY < MINIMAP;
  };
  canvas.onpointermove = (event) => {
    const drag = view.drag;
    if (!drag) {
      const row = rowAt(view, event);
      if (row !== view.hovered) {
        view.hovered = row;
        redraw(view);
      }
      canvas.style.cursor = event.offsetY < MINIMAP ? "crosshair" : event.offsetX < view.label ? "pointer" : "grab";
      tell(view, event, row);
      return;
    }
    const dx = event.offsetX - drag.x, dy = event.offsetY - drag.y;
    if (!drag.moved && Math.abs(dx) + Math.abs(dy) < 4) return;
    drag.moved = true;
    view.tip.hidden = true;
    if (drag.mini) {
      const at = (x) => ((x - 4) / (view.width - 8)) * view.all;
      look(view, Math.min(at(drag.x), at(event.offsetX)), Math.max(at(drag.x), at(event.offsetX)));
    } else {
      const by = (-dx / (view.width - view.label)) * (drag.to - drag.from);
      view.scroller.scrollTop = drag.top - dy;
      look(view, drag.from + by, drag.to + by);
    }
  };
  canvas.onpointerup = (event) => {
    const drag = view.drag;
    view.drag = null;
    if (!drag || drag.moved) return;
    if (drag.mini) {
      const at = ((event.offsetX - 4) / (view.width - 8)) * view.all, length = view.to - view.from;
      look(view, at - length / 2, at + length / 2);
      return;
    }
    const row = rowAt(view, event);
    if (row < 0) return;
    const indent = 8 + Math.min(view.data.depth[row], 12) * 13;
    const onFold = event.offsetX < view.label && event.offsetX > indent - 6 && event.offsetX < indent + 14;
    if (onFold && view.data.below[row] > row + 1) fold(view, row, !view.folded.has(view.data.id[row]));
    else select(view, row);
  };
  canvas.ondblclick = (event) => zoomTo(view, rowAt(view, event));
  canvas.onpointerleave = () => {
    view.hovered = -1;
    view.tip.hidden = true;
    redraw(view);
  };
  view.scroller.onscroll = () => redraw(view);
}

function legend(view) {
  const { bar: place, data, theme } = view;
  place.textContent = "";
  const button = (words, title, does, on) => {
    const made = document.createElement("button");
    made.textContent = words;
    made.title = title;
    made.setAttribute("aria-pressed", String(Boolean(on)));
    made.onclick = does;
    place.append(made);
  };
  button("Fit", "all of the run (f)", () => look(view, 0, view.all));
  button("Path only", "only steps on the critical path (p)", () => togglePath(view), view.pathOnly);
  button("Fold", "fold or unfold all", () => foldAll(view));
  const total = data.split.reduce((sum, [, ns]) => sum + ns, 0);
  const head = document.createElement("span");
  head.className = "path";
  head.textContent = total ? `━ critical path ${duration(total)}:` : "";
  place.append(head);
  for (const [kind, ns] of data.split) {
    const item = document.createElement("span");
    const swatch = document.createElement("i");
    swatch.style.background = (KIND[kind] || KIND.code)[theme.dark ? 1 : 0];
    item.append(swatch, `${(KIND[kind] || KIND.code)[3]} ${duration(ns)} (${Math.round((ns / total) * 100)} %)`);
    place.append(item);
  }
  const marks = document.createElement("span");
  marks.className = "marks";
  marks.textContent = "▨ gap   ─┤ float   ┄‖ waits at a barrier   ╎ SLO";
  place.append(marks);
}

export default function (component) {
  const { parentElement, data, setStateValue } = component;
  const box = parentElement.querySelector(".waterfall");
  if (!box || !data) return undefined;
  let view = views.get(box);
  if (!view) {
    const find = (name) => parentElement.querySelector(name);
    view = { box: find(".frame"), canvas: find("canvas"), scroller: find(".scroller"), spacer: find(".spacer"), tip: find(".tip"), bar: find(".bar") };
    Object.assign(view, { ink: view.canvas.getContext("2d"), patterns: {}, hovered: -1, selected: -1, scroll: 0, dim: true });
    views.set(box, view);
    listen(view);
  }
  view.setStateValue = setStateValue;
  const theme = themeOf(box);
  if (view.theme?.key !== theme.key) view.patterns = {};
  view.theme = theme;
  box.style.setProperty("--height", `${data.height || 460}px`);
  if (view.sent !== data.stamp) {
    view.whole = { ...unpacked(data), id: data.id ? data.id.split(" ") : [] };
    view.sent = data.stamp;
  }
  adopt(view, { ...view.whole, selected: data.selected, height: data.height });
  legend(view);
  view.observer?.disconnect();
  view.observer = new ResizeObserver(() => redraw(view));
  view.observer.observe(view.box);
  document.removeEventListener("keydown", view.onKey);
  view.onKey = (event) => onKey(view, event);
  document.addEventListener("keydown", view.onKey);
  redraw(view);
  return undoing(view, () => {
    document.removeEventListener("keydown", view.onKey);
    view.observer.disconnect();
    clearTimeout(view.timer);
    const { folded, pathOnly, from, to, fit, scroll, selectedId, heard, asked } = view;
    left.clear();
    left.set(view.data.run, { folded, pathOnly, from, to, fit, scroll, selectedId, heard, asked, unsaid: Boolean(view.timer) });
  });
}
