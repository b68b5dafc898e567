// Keys for every page: "/" goes to the search field, "?" opens the list of keys, Escape closes it.
const KEYS = [
  ["/", "search (Runs)"],
  ["j k", "next, previous step"],
  ["c", "next step on the critical path; C the one before"],
  ["[ ]", "fold, unfold the selected step"],
  ["p", "only steps on the critical path"],
  ["f z", "all of the run, the selected step in view"],
  ["+ −", "zoom in, out; the wheel too; drag to pan"],
  ["Esc", "nothing selected; closes this"],
];

function overlay() {
  const box = document.createElement("div");
  box.id = "redecode-help";
  box.setAttribute("role", "dialog");
  box.setAttribute("aria-label", "Keys");
  box.style.cssText =
    "position:fixed;inset:0;z-index:999999;background:rgba(0,0,0,.45);display:flex;align-items:center;" +
    "justify-content:center;font:15px system-ui,sans-serif";
  const card = document.createElement("div");
  const root = getComputedStyle(document.querySelector(".stApp") || document.body);
  card.style.cssText = `background:${root.backgroundColor};color:${root.color};padding:20px 28px;border-radius:8px;min-width:320px`;
  const title = document.createElement("div");
  title.textContent = "Keys";
  title.style.cssText = "font-weight:600;margin-bottom:10px";
  card.append(title);
  for (const [key, what] of KEYS) {
    const row = document.createElement("div");
    row.style.cssText = "display:flex;gap:16px;padding:3px 0";
    const name = document.createElement("kbd");
    name.textContent = key;
    name.style.cssText = "min-width:52px;font-family:monospace;font-weight:600";
    const words = document.createElement("span");
    words.textContent = what;
    row.append(name, words);
    card.append(row);
  }
  box.append(card);
  box.onclick = () => box.remove();
  return box;
}

function onKey(event) {
  const shown = document.getElementById("redecode-help");
  if (event.key === "Escape" && shown) {
    shown.remove();
    return;
  }
  if (typing(event)) return;
  if (event.key === "?") {
    event.preventDefault();
    if (shown) shown.remove();
    else document.body.append(overlay());
  } else if (event.key === "/") {
    const field = document.querySelector('input[aria-label="Search"]');
    if (field) {
      event.preventDefault();
      field.focus();
      field.select();
    }
  }
}

const page = {};

export default function () {
  document.removeEventListener("keydown", window.redecodeKeys);
  window.redecodeKeys = onKey;
  document.addEventListener("keydown", onKey);
  return undoing(page, () => {
    document.removeEventListener("keydown", onKey);
    document.getElementById("redecode-help")?.remove();
  });
}
