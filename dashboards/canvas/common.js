// Shared by the drawings; prepended to each of them. Text from outside is only ever drawn, never parsed as markup.
function typing(event) {
  const at = event.composedPath()[0];
  const tag = at?.tagName;
  return event.ctrlKey || event.metaKey || event.altKey || at?.isContentEditable || tag === "INPUT" || tag === "TEXTAREA" || tag === "SELECT";
}

// ns as a person says it; the same words as words.py.
function duration(ns) {
  const size = Math.abs(ns);
  if (size === 0) return "0 ms";
  if (size < 1e6) return `${(ns / 1e3).toFixed(0)} µs`;
  if (size < 1e9) return `${(ns / 1e6).toFixed(size < 1e8 ? 1 : 0)} ms`;
  return size < 1e11 ? `${(ns / 1e9).toFixed(2)} s` : `${(ns / 1e9).toFixed(0)} s`;
}
