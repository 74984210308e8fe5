// The explorer of single neurons: a table to search and sort, and the details of the chosen neuron.
"use strict";

const NEURON_ORDERS = {
  "most specialised": (view, row) => (Number.isNaN(view.special.values[row]) ? -1 : view.special.values[row]),
  "most frequent": (view, row) => view.overall[row],
  "least frequent": (view, row) => -view.overall[row],
  "largest mean norm": (view, row) => view.mean.values[row],
  "largest norm": (view, row) => view.max.values[row],
  "layer and number": (view, row) => -(view.layer.values[row] * 1e6 + view.neuron.values[row]),
};
const NEURON_PAGE = 15;

function explorer(root, data) {
  const view = { ...data };
  for (const name of ["layer", "neuron", "frequency", "mean", "max", "special"]) view[name] = unpack(data[name]);
  const count = view.layer.values.length;
  const corpora = view.corpora.length;
  const frequency = (row, corpus) => view.frequency.values[corpus * count + row];
  view.overall = Float32Array.from({ length: count }, (_, row) => {
    let sum = 0;
    for (let corpus = 0; corpus < corpora; corpus++) sum += frequency(row, corpus);
    return sum / corpora;
  });
  const favourite = (row) => {
    let best = 0;
    for (let corpus = 1; corpus < corpora; corpus++) if (frequency(row, corpus) > frequency(row, best)) best = corpus;
    return best;
  };
  const rowOf = new Map(view.name.map((name, row) => [name, row]));
  const words = new Map(Object.entries(view.details).map(([row, detail]) =>
    [Number(row), [...detail.up, ...detail.down, ...detail.contexts.flatMap((context) => context.slice(2))].join(" ").toLowerCase()]));
  const state = { rows: [], page: 0, chosen: null };

  const option = (value, text) => make("option", { value }, text);
  const search = make("input", { type: "search", class: "search", placeholder: "3.17, or a word", "aria-label": "search neurons" });
  const orders = Object.keys(NEURON_ORDERS).filter((name) => corpora > 1 || name !== "most specialised");
  const sort = make("select", { class: "sort", "aria-label": "sort by" }, ...orders.map((name) => option(name, name)));
  const only = make("select", { class: "only", "aria-label": "fires most in" }, option("", "any corpus"), ...view.corpora.map((name, i) => option(i, `most in ${name}`)));
  const hint = make("span", { class: "found", "aria-live": "polite" });
  const [back, next] = [make("button", { type: "button", class: "back" }, "\u2190"), make("button", { type: "button", class: "next" }, "\u2192")];
  back.setAttribute("aria-label", "previous neurons");
  next.setAttribute("aria-label", "next neurons");
  const save = make("button", { type: "button", class: "csv" }, "CSV");
  const body = make("tbody");
  const heads = ["neuron", "frequency", ...(corpora > 1 ? view.corpora : []), ...(corpora > 1 ? ["specialisation"] : []), "mean norm", "max norm"];
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads.map((name) => make("th", { class: "number" }, name)))), body);
  const detail = make("div", { class: "detail", "aria-live": "polite" });
  root.append(
    make("div", { class: "controls" }, search, sort, ...(corpora > 1 ? [only] : []), save),
    make("div", { class: "body" },
      make("div", { class: "list" }, make("div", { class: "wide" }, table), make("div", { class: "controls" }, back, next, hint)),
      detail),
  );

  const name = (row) => view.name[row];

  function cells(row) {
    const shares = corpora > 1 ? Array.from({ length: corpora }, (_, corpus) => percent(frequency(row, corpus))) : [];
    const special = corpora > 1 ? [Number.isNaN(view.special.values[row]) ? "-" : view.special.values[row].toFixed(3)] : [];
    return [name(row), percent(view.overall[row]), ...shares, ...special, short(view.mean.values[row]), short(view.max.values[row])];
  }

  function select() {
    const asked = search.value.trim().toLowerCase();
    const matches = (row) => asked === "" || name(row) === asked || (/^\d+(\.\w*)*$/.test(asked) ? name(row).startsWith(asked) : words.get(row)?.includes(asked));
    const mine = (row) => only.value === "" || favourite(row) === Number(only.value);
    const rank = NEURON_ORDERS[sort.value];
    const rows = [];
    for (let row = 0; row < count; row++) if (mine(row) && matches(row)) rows.push([rank(view, row), row]);
    state.rows = rows.sort((a, b) => b[0] - a[0]).map((pair) => pair[1]);
    state.page = 0;
    list();
  }

  function list() {
    const begin = state.page * NEURON_PAGE;
    const part = state.rows.slice(begin, begin + NEURON_PAGE);
    body.replaceChildren(...part.map((row) => {
      const [first, ...rest] = cells(row);
      const button = make("button", { type: "button", class: "neuron", onclick: () => choose(row) }, first);
      return make("tr", { class: row === state.chosen ? "chosen" : false }, make("td", { class: "number" }, button), ...rest.map((cell) => make("td", { class: "number" }, cell)));
    }));
    const of = view.total > count ? `; ${count.toLocaleString("en")} of ${view.total.toLocaleString("en")} neurons are on this page, all are in neurons.parquet` : "";
    hint.textContent = state.rows.length ? `${begin + 1} to ${begin + part.length} of ${state.rows.length.toLocaleString("en")}${of}` : `no neuron found${of}`;
    back.disabled = state.page === 0;
    next.disabled = begin + NEURON_PAGE >= state.rows.length;
  }

  function choose(row) {
    state.chosen = row;
    list();
    const found = view.details[row];
    detail.replaceChildren(
      make("b", {}, `Neuron ${name(row)}`),
      ...shares(row),
      ...(found ? facts(row, found) : [make("p", {}, "Its words and contexts are not on this page; they are in neurons.parquet.")]),
    );
  }

  function shares(row) {
    const most = Math.max(...Array.from({ length: corpora }, (_, corpus) => frequency(row, corpus)), 1e-9);
    return view.corpora.map((corpusName, corpus) => {
      const bar = make("i");
      bar.style.width = `${(100 * frequency(row, corpus)) / most}%`;
      return make("div", { class: "share" }, make("span", {}, corpusName), make("span", { class: "bar" }, bar), make("span", { class: "value" }, percent(frequency(row, corpus))));
    });
  }

  function facts(row, found) {
    const chips = (title, list) => (list.length ? [make("p", {}, make("b", {}, title), " ", ...list.flatMap((word) => [make("code", { class: "chip" }, visible(word)), " "]))] : []);
    const near = found.near.flatMap(([number, phi]) => {
      const other = rowOf.get(number);
      const text = `${number} (${phi.toFixed(2)})`;
      return [other === undefined ? make("span", {}, text) : make("button", { type: "button", class: "near", onclick: () => choose(other) }, text), " "];
    });
    const contexts = found.contexts.map(([corpus, value, before, token, after]) =>
      make("li", {}, make("small", {}, `${corpus}, ${value} `), make("span", { class: "context" }, filled(before).trimStart(), make("mark", {}, token.replaceAll("\n", "\u21b5") || "\u2590"), filled(after).trimEnd())));
    return [
      ...chips("promotes", found.up), ...chips("demotes", found.down),
      ...(near.length ? [make("p", {}, make("b", {}, "fires with"), " ", ...near)] : []),
      make("b", {}, "where it is largest"), make("ul", { class: "contexts" }, ...contexts),
    ];
  }

  search.addEventListener("input", () => {
    select();
    const asked = search.value.trim();
    if (asked && state.rows.length) choose(state.rows.find((row) => name(row) === asked) ?? state.rows[0]);
  });
  sort.addEventListener("change", select);
  only.addEventListener("change", select);
  back.addEventListener("click", () => { state.page -= 1; list(); });
  next.addEventListener("click", () => { state.page += 1; list(); });
  save.addEventListener("click", () => download("neurons.csv", csv([heads, ...state.rows.map((row) =>
    [name(row), view.overall[row], ...(corpora > 1 ? [...view.corpora.keys()].map((corpus) => frequency(row, corpus)) : []), ...(corpora > 1 ? [view.special.values[row]] : []), view.mean.values[row], view.max.values[row]])])));
  select();
  if (state.rows.length) choose(state.rows[0]);
}

// Removes blank lines, since a context is short and would become tall.
function filled(text) {
  return text.replace(/\n\s*\n/g, "\n");
}

function visible(word) {
  return word === "" ? "\u2590" : word.replaceAll("\n", "\\n").replaceAll("\t", "\\t").replaceAll(" ", "\u2423");
}

function openExplorer(number) {
  for (const root of document.querySelectorAll(".explorer")) {
    root.hidden = root.dataset.explorer !== number;
    if (!root.hidden && !root.hasChildNodes()) explorer(root, DATA.explorers[number]);
  }
}

document.getElementById("explorer")?.addEventListener("change", (event) => openExplorer(event.target.value));
if (DATA.explorers.length) {
  // built when it comes near the screen, so that the first chart is drawn before it
  const open = () => openExplorer(document.getElementById("explorer")?.value ?? "0");
  new IntersectionObserver((entries, self) => {
    if (entries.some((entry) => entry.isIntersecting)) {
      self.disconnect();
      open();
    }
  }, { rootMargin: "600px" }).observe(document.querySelector(".explorer"));
  unfinished.add(open);
}
