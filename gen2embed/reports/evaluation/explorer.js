// The explorer of queries: filters and pages, whose state is in the address. Texts only ever become text nodes.
"use strict";

const PAGE = 12; // queries
const data = JSON.parse(document.getElementById("data").textContent);
const form = document.getElementById("filters");
const fields = ["task", "run", "outcome", "rank", "text"].filter((name) => form.elements[name]);
const several = data.runs.length > 1;
let page = 1;

// --- elements ---

function element(tag, className, ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function item(index) {
  return element("div", "item", ...data.items[index].map((part) => {
    if ("text" in part) return element("span", part.text ? "" : "soft", part.text || "(empty text)");
    const image = element("img");
    Object.assign(image, { src: data.pictures[part.picture], alt: `picture ${part.name}`, title: part.name });
    return image;
  }));
}

function answer([index, similarity, right]) {
  const entry = element("li", right ? "answer right" : "answer", item(index));
  const value = element("b", "", (right ? "✓ " : "") + similarity.toFixed(3));
  value.setAttribute("aria-label", `similarity ${similarity.toFixed(3)}${right ? ", right" : ""}`);
  const meter = element("i");
  meter.style.setProperty("--share", Math.min(Math.max(similarity, 0), 1));
  entry.append(value, meter);
  return entry;
}

function answers(run, name) {
  const outcome = `${run.correct ? "right" : "wrong"}${run.tied ? " by a tie" : ""}, rank ${run.rank}`;
  const head = element("h4", "", element("span", run.correct ? "tag" : "tag wrong", outcome), name);
  return [head, element("ol", "", ...run.top.map(answer))];
}

function card(query) {
  const task = data.tasks[query.task];
  const where = query.row === null ? `query ${query.query}` : `row ${query.row}, query ${query.query}`;
  const more = query.rights > query.right.length ? ` (${query.right.length} of ${query.rights})` : "";
  return element("li", "",
    element("h3", "", `${task.name} · ${where}`), item(query.item),
    element("h4", "", (query.rights > 1 ? "right answers" : "right answer") + more), ...query.right.map(item),
    ...query.runs.flatMap((run, index) => answers(run, several ? data.runs[index] : "best answers")));
}

// --- filters ---

function texts(query) {
  if (!query.texts) {
    const items = [query.item, ...query.right, ...query.runs.flatMap((run) => run.top.map(([index]) => index))];
    query.texts = items.flatMap((index) => data.items[index].map((part) => part.text ?? part.name)).join("\n").toLowerCase();
  }
  return query.texts;
}

function passes(query, wanted) {
  const task = data.tasks[query.task];
  const run = query.runs[Math.max(data.runs.indexOf(wanted.run), 0)];
  const [low, high] = wanted.rank.includes("-") ? wanted.rank.split("-") : [wanted.rank, wanted.rank];
  const outcomes = {
    "": true, right: run.correct, wrong: !run.correct, differs: new Set(query.runs.map((answer) => answer.correct)).size > 1,
  };
  return (!wanted.task || wanted.task === task.name || wanted.task === String(query.task))
    && outcomes[wanted.outcome]
    && (!wanted.rank || (run.rank >= Number(low) && run.rank <= (Number(high) || Infinity)))
    && (!wanted.text || texts(query).includes(wanted.text.trim().toLowerCase()));
}

function show() {
  const wanted = { task: "", run: "", outcome: "", rank: "", text: "" };
  for (const name of fields) wanted[name] = form.elements[name].value;
  const matches = data.queries.filter((query) => passes(query, wanted));
  const pages = Math.max(Math.ceil(matches.length / PAGE), 1);
  page = Math.min(Math.max(page, 1), pages);
  document.getElementById("queries").replaceChildren(...matches.slice((page - 1) * PAGE, page * PAGE).map(card));
  document.getElementById("found").textContent = `${matches.length} of ${data.queries.length} queries`;
  document.getElementById("page").textContent = `page ${page} of ${pages}`;
  document.getElementById("previous").disabled = page === 1;
  document.getElementById("next").disabled = page === pages;
}

// --- the address ---

function read() {
  const hash = location.hash.slice(1);
  if (hash && !hash.includes("=")) return; // a place on the page
  const state = new URLSearchParams(hash);
  for (const name of fields) {
    const field = form.elements[name];
    field.value = state.get(name) ?? "";
    if (field.selectedIndex === -1) field.selectedIndex = 0;
  }
  page = Number.parseInt(state.get("page"), 10) || 1;
}

function write() {
  const state = new URLSearchParams();
  for (const name of fields) {
    const field = form.elements[name];
    if (field.value && field.selectedIndex !== 0) state.set(name, field.value);
  }
  if (page > 1) state.set("page", page);
  history.replaceState(null, "", `#${state}`);
}

function changed() {
  page = 1;
  show();
  write();
}

function turn(pages) {
  page += pages;
  show();
  write();
  const status = document.getElementById("found");
  status.focus({ preventScroll: true });
  status.scrollIntoView({ block: "start" });
}

form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("input", changed);
form.addEventListener("reset", () => setTimeout(changed)); // after the fields are reset
document.getElementById("previous").addEventListener("click", () => turn(-1));
document.getElementById("next").addEventListener("click", () => turn(1));
addEventListener("hashchange", () => { read(); show(); });
read();
show();
