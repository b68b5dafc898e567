// Shared by the drawings; prepended to each of them. Text from outside is only ever drawn, never parsed as markup.
function typing(event) {
  const at = event.composedPath()[0];
  const tag = at?.tagName;
  return event.ctrlKey || event.metaKey || event.altKey || at?.isContentEditable || tag === "INPUT" || tag === "TEXTAREA" || tag === "SELECT";
}

const ECHO_MS = 20_000;  // a choice that Python has not answered by then is forgotten

// Whether what Python says is selected is news. What was chosen here comes back, on a slow machine after something else
// was chosen: only news moves the selection. `asked` says what went to Python.
function news(view, selected) {
  if (selected === view.heard) return false;
  view.heard = selected;
  view.asked = view.asked.filter((one) => performance.now() - one.at < ECHO_MS);
  const echo = view.asked.findIndex((one) => one.id === selected);
  if (echo >= 0) view.asked.splice(0, echo + 1);
  return echo < 0;
}

function asked(view, id) {
  view.asked.push({ id, at: performance.now() });
}

// What undoes a call of a component, unless it was called again since: where what Python says comes twice in a moment,
// Streamlit undoes the first call after the second, which would leave a drawing that hears and tells nothing.
function undoing(view, undo) {
  const turn = (view.turn || 0) + 1;
  view.turn = turn;
  return () => {
    if (view.turn === turn) undo();
  };
}

const ARRAYS = { f8: Float64Array, i4: Int32Array, u1: Uint8Array };

// Columns that packing.py packed, as arrays again; everything else as it is.
function unpacked(data) {
  const out = {};
  for (const [name, value] of Object.entries(data)) {
    const kind = value && typeof value === "object" && !Array.isArray(value) ? Object.keys(value)[0] : undefined;
    if (!(kind in ARRAYS)) {
      out[name] = kind === undefined ? value : unpacked(value);
      continue;
    }
    const bytes = Uint8Array.from(atob(value[kind]), (c) => c.charCodeAt(0));
    out[name] = new ARRAYS[kind](bytes.buffer);
  }
  return out;
}

// ns as a person says it; the same words as words.py.
function duration(ns) {
  const size = Math.abs(ns);
  if (size === 0) return "0 ms";
  if (size < 1e6) return `${(ns / 1e3).toFixed(0)} µs`;
  if (size < 1e9) return `${(ns / 1e6).toFixed(size < 1e8 ? 1 : 0)} ms`;
  return size < 1e11 ? `${(ns / 1e9).toFixed(2)} s` : `${(ns / 1e9).toFixed(0)} s`;
}
