// The text view: tokens coloured by their activation ratio in the layer that the slider chooses.
"use strict";

function textView(root, view) {
  const [count, layers] = view.ratios.shape;
  const ratio = (token, layer) => view.ratios.values[token * layers + layer] / 1000;
  const mean = (token) => {
    let sum = 0;
    for (let layer = 0; layer < layers; layer++) sum += ratio(token, layer);
    return sum / layers;
  };
  const site = (layer) => view.sites[layer][0];
  const neuron = (layer, number) => {
    const [, prefix, perExpert] = view.sites[layer];
    return `${prefix}.${perExpert ? `${Math.floor(number / perExpert)}.${number % perExpert}` : number}`;
  };
  const state = { layer: null, token: 0 };
  const value = (token) => (state.layer === null ? mean(token) : ratio(token, state.layer));

  const shown = make("output", { class: "layer-name" }, "all layers");
  const slider = make("input", { type: "range", class: "layer", min: 0, max: layers, value: 0, "aria-label": "layer" });
  const [low, high] = [make("span", { class: "low" }), make("span", { class: "high" })];
  const save = make("button", { type: "button", class: "csv" }, "CSV");
  const tokens = make("div", { class: "tokens", tabindex: 0, role: "listbox", "aria-label": "Tokens; arrow keys move" });
  const detail = make("div", { class: "detail", "aria-live": "polite" });
  const spans = view.tokens.map((text, index) =>
    make("span", { "data-token": index, role: "option", class: text === "" && "part" }, text));
  tokens.append(...spans);
  root.append(
    make("div", { class: "controls" }, make("label", {}, "layer", slider, shown), make("span", { class: "ends" }, low, make("span", { class: "scale" }), high), save),
    make("div", { class: "body" }, tokens, detail),
  );

  function paint() {
    const values = spans.map((_, index) => value(index));
    const sorted = [...values].sort((a, b) => a - b);
    // a few extreme tokens would leave all others in one colour
    const [from, to] = [sorted[Math.floor(0.02 * (count - 1))], sorted[Math.ceil(0.98 * (count - 1))]];
    spans.forEach((span, index) => {
      const part = to > from ? (values[index] - from) / (to - from) : 0;
      span.style.setProperty("--a", (75 * Math.min(1, Math.max(0, part))).toFixed(1));
    });
    // one colour stands for all values beyond an end of the scale
    const beyond = (bound, sign, isBeyond) => `${values.some(isBeyond) ? sign : ""}${percent(bound)}`;
    low.textContent = beyond(from, "\u2264 ", (value) => value < from);
    high.textContent = beyond(to, "\u2265 ", (value) => value > to);
    shown.textContent = state.layer === null ? "all layers" : `layer ${site(state.layer)}`;
  }

  function choose(token) {
    spans[state.token].classList.remove("chosen");
    spans[state.token].setAttribute("aria-selected", "false");
    state.token = token;
    spans[token].classList.add("chosen");
    spans[token].setAttribute("aria-selected", "true");
    describe();
  }

  function describe() {
    const { token, layer } = state;
    const most = Math.max(...Array.from({ length: layers }, (_, i) => ratio(token, i)), 1e-9);
    const columns = Array.from({ length: layers }, (_, i) => {
      const bar = make("i", { title: `layer ${site(i)}: ${percent(ratio(token, i))}`, class: layer === null || layer === i ? "now" : false });
      bar.style.height = `${(100 * ratio(token, i)) / most}%`;
      return bar;
    });
    detail.replaceChildren(
      make("div", {}, make("b", { class: "mono token-text" }, view.tokens[token].replace(/[\u0000-\u001f]/g, (char) => JSON.stringify(char).slice(1, -1)) || "(part of the next)"), ` token ${token + 1} of ${count}`),
      make("div", { class: "token-ratio" }, `${percent(value(token))} active in ${layer === null ? "all layers" : `layer ${site(layer)}`}`),
      make("div", { class: "bars", role: "img", "aria-label": "activation ratio in each layer" }, ...columns),
      make("small", {}, `layer ${site(0)} to ${site(layers - 1)}, highest ${percent(most)}`),
      ...neuronTable(token, layer),
    );
  }

  function neuronTable(token, layer) {
    if (!view.neurons) return [];
    const top = view.neurons.shape[2];
    const rows = [];
    for (let i = 0; i < layers; i++) {
      if (layer !== null && layer !== i) continue;
      for (let rank = 0; rank < (layer === null ? 1 : top); rank++) {
        const at = (token * layers + i) * top + rank;
        rows.push([site(i), neuron(i, view.neurons.values[at]), (view.norms.values[at] / 65535) * view.largest_norm]);
      }
    }
    rows.sort((a, b) => b[2] - a[2]);
    const body = rows.slice(0, 8).map((row) => make("tr", {}, ...[row[0], row[1], short(row[2])].map((cell) => make("td", { class: "number" }, String(cell)))));
    const head = make("tr", {}, ...["layer", "neuron", "neuron_norm"].map((name) => make("th", { class: "number" }, name)));
    return [make("p", {}, make("b", {}, layer === null ? "Strongest neuron of each layer" : "Strongest neurons")), make("table", { class: "top" }, make("thead", {}, head), make("tbody", {}, ...body))];
  }

  slider.addEventListener("input", () => {
    state.layer = Number(slider.value) ? Number(slider.value) - 1 : null;
    paint();
    describe();
  });
  const pointed = (event) => event.target.dataset.token !== undefined && choose(Number(event.target.dataset.token));
  tokens.addEventListener("pointerover", pointed);
  tokens.addEventListener("click", pointed);
  tokens.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.min(count - 1, Math.max(0, state.token + step)));
    spans[state.token].scrollIntoView({ block: "nearest" });
  });
  save.addEventListener("click", () => {
    const header = ["token", "text", ...Array.from({ length: layers }, (_, i) => `ratio, layer ${site(i)}`)];
    const rows = view.tokens.map((text, token) => [token, text, ...Array.from({ length: layers }, (_, i) => ratio(token, i))]);
    download("tokens.csv", csv([header, ...rows]));
  });
  paint();
  choose(0);
}

// A view is built when its panel is first visible.
function openText(panel) {
  const root = panel.querySelector(".text-view");
  if (!root || root.hasChildNodes()) return;
  const view = { ...DATA.panels[panel.dataset.panel].text };
  for (const name of ["ratios", "neurons", "norms"]) if (view[name]) view[name] = unpack(view[name]);
  textView(root, view);
}

document.getElementById("panel")?.addEventListener("change", (event) => openText(document.querySelector(`.panel[data-panel="${event.target.value}"]`)));
const firstPanel = document.querySelector(".panel");
if (firstPanel) openText(firstPanel);
