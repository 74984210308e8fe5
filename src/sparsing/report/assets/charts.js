// Draws the charts: each is a figure with controls, drawn when it comes near the screen.
"use strict";

const VIRIDIS = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30"];
const HOVER_DIGITS = ".4~g";

// The plotting library reads a few HTML tags in its labels; text is to stay text.
function label(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
}

function depthColour(depth) {
  const at = (isDark() ? 0.22 + 0.78 * depth : 0.9 * depth) * (VIRIDIS.length - 1);
  const mix = (a, b, t) => Math.round(a + (b - a) * t);
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const low = parts(VIRIDIS[Math.floor(at)]);
  const high = parts(VIRIDIS[Math.ceil(at)]);
  return `rgb(${low.map((value, i) => mix(value, high[i], at % 1)).join(",")})`;
}

function isDark() {
  const theme = document.documentElement.dataset.theme ?? "system";
  return theme === "dark" || (theme === "system" && matchMedia("(prefers-color-scheme: dark)").matches);
}

function bars(values, low, high, tint) {
  if (!low || !high) return undefined;
  const gap = (a, b) => (a === null || b === null ? 0 : a - b);
  return {
    type: "data", symmetric: false, color: tint, thickness: 1.3, width: 3,
    array: values.map((value, i) => gap(high[i], value)),
    arrayminus: values.map((value, i) => gap(value, low[i])),
  };
}

// Where series stand around a name on the x axis; the CSV keeps the whole numbers.
function places(chart, series, index) {
  if (!chart.side_by_side) return series.x;
  const step = Math.min(0.15, 0.7 / chart.series.length);
  return series.x.map((x) => x + step * (index - (chart.series.length - 1) / 2));
}

function trace(chart, series, index, front) {
  const tint = series.depth === undefined ? colour(`c${(series.colour ?? index) % 8}`) : depthColour(series.depth);
  const mode = { both: "lines+markers", lines: "lines", points: "markers", open: "markers" }[series.mode ?? "both"];
  const many = series.x.length > 100;
  const behind = front !== null && front !== index;
  return {
    type: "scatter", name: label(series.name), x: places(chart, series, index), y: series.y, mode,
    opacity: behind ? 0.12 : 1,
    showlegend: series.listed !== false,
    line: { color: tint, width: front === index ? 3 : series.depth === undefined ? 2 : 1.3, dash: series.dashed ? "dash" : "solid" },
    marker: { color: tint, size: many ? 4 : 7, symbol: series.mode === "open" ? "circle-open" : index % 8, opacity: many ? 0.55 : 1 },
    error_x: bars(series.x, series.x_low, series.x_high, tint),
    error_y: bars(series.y, series.y_low, series.y_high, tint),
    hoverinfo: behind ? "skip" : undefined,
    text: series.text?.map(label),
    customdata: chart.x_names && series.x.map((x) => label(chart.x_names[x])),
    hovertemplate: `${label(series.name)}<br>${label(chart.y)}: %{y:${HOVER_DIGITS}}<br>${label(chart.x)}: ` +
      (chart.x_names ? "%{customdata}" : `%{x:${HOVER_DIGITS}}`) +
      (series.text ? "<br>%{text}" : "") + "<extra></extra>",
  };
}

function axis(title, scale) {
  const quiet = { gridcolor: colour("line"), linecolor: colour("line"), zerolinecolor: colour("line"), tickcolor: colour("line") };
  return { title: { text: label(title), standoff: 10 }, type: scale, automargin: true, exponentformat: "B", ...quiet };
}

// 1, 2 and 5 times the powers of ten, or the powers alone where there are many.
function logTicks(values) {
  const real = values.filter((value) => value !== null && value > 0);
  const [low, high] = [Math.floor(Math.log10(Math.min(...real))), Math.ceil(Math.log10(Math.max(...real)))];
  const steps = high - low > 4 ? [1] : high - low > 2 ? [1, 3] : [1, 2, 5];
  const ticks = [];
  for (let power = low; power <= high; power++) for (const step of steps) ticks.push(step * 10 ** power);
  return { tickvals: ticks, ticktext: ticks.map(quantity) };
}

function quantity(value) {
  const units = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
  const [unit, name] = units.find(([least]) => value >= least * 0.9999) ?? [1, ""];
  return `${Number((value / unit).toPrecision(3))}${name}`;
}

function layout(chart, state, width) {
  const ink = colour("ink");
  const xaxis = axis(chart.x, state.x);
  const yaxis = axis(chart.y, state.y);
  if (state.x === "log") Object.assign(xaxis, logTicks(chart.series.flatMap((series) => [...series.x])));
  if (state.y === "log") Object.assign(yaxis, logTicks(chart.series.flatMap((series) => [...series.y])));
  if (chart.x_names?.length) {
    const names = chart.x_names.map((name) => label(name.length > 22 ? `${name.slice(0, 21)}\u2026` : name));
    Object.assign(xaxis, { tickvals: names.map((_, i) => i), ticktext: names, range: [-0.5, names.length - 0.5] });
  } else if (chart.x === "layer") {
    Object.assign(xaxis, { tickformat: "d", dtick: chart.series[0].x.length <= 12 ? 1 : undefined });
  }
  if (chart.y_room && state.y === "linear") yaxis.range = roomy(chart);
  const marks = chart.marks ?? [];
  const shapes = marks.map((mark) => {
    const across = (mark.axis ?? "y") === "y" ? { x0: 0, x1: 1, xref: "paper", y0: mark.at, y1: mark.at } : { y0: 0, y1: 1, yref: "paper", x0: mark.at, x1: mark.at };
    return { type: "line", line: { color: colour("muted"), width: 1, dash: "dot" }, ...across };
  });
  const logged = (mark) => (state.y === "log" ? Math.log10(mark.at) : mark.at);
  const annotations = marks.filter((mark) => (mark.axis ?? "y") === "y").map((mark) => ({
    x: 1, xref: "paper", y: logged(mark), xanchor: "right", yanchor: "bottom", showarrow: false, text: label(mark.label),
    font: { size: 11, color: colour("muted") },
  }));
  if (chart.square) shapes.push({ type: "line", line: { color: colour("muted"), width: 1, dash: "dot" }, ...diagonal(chart) });
  return {
    autosize: true, margin: { l: 56, r: 12, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily }, colorway: [ink],
    xaxis, yaxis, shapes, annotations, hovermode: "closest", dragmode: width < 600 ? false : "zoom",
    showlegend: chart.series.filter((series) => series.listed !== false).length > 1,
    // below the plot, but above it where the names on the x axis may stand slanted
    legend: { orientation: "h", x: 0, ...(chart.x_names ? { y: 1.02, yanchor: "bottom" } : { y: -0.22, yanchor: "top" }), font: { size: 12 }, itemsizing: "constant" },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: ink }, align: "left" },
  };
}

// Rounding errors would look like differences if the axis were fitted to them.
function roomy(chart) {
  const values = [...chart.series.flatMap((series) => [...series.y]), ...(chart.marks ?? []).map((mark) => mark.at)];
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const room = Math.max(chart.y_room * high, 0.08 * (high - low));
  return [Math.max(0, low - room), high + room];
}

function diagonal(chart) {
  const values = chart.series.flatMap((series) => [...series.x, ...series.y]).filter((value) => value !== null);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return { x0: low, y0: low, x1: high, y1: high };
}

const PLOT_CONFIG = {
  responsive: true, displaylogo: false, displayModeBar: "hover", scrollZoom: false,
  modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"],
};

function chartRows(chart) {
  const extra = ["x_low", "x_high", "y_low", "y_high", "text"].filter((name) => chart.series.some((series) => series[name]));
  const named = chart.x_names?.length ? ["name of x"] : [];
  const rows = chart.series.flatMap((series) =>
    series.x.map((x, i) => [
      series.name, x, series.y[i], ...extra.map((name) => series[name]?.[i]), ...named.map(() => chart.x_names[x]),
    ]));
  return [["series", chart.x, chart.y, ...extra, ...named], ...rows];
}

function scaleButton(chart, state, which, draw) {
  const scales = chart[`${which}_scales`] ?? ["linear"];
  if (scales.length < 2) return [];
  const pressed = () => String(state[which] === "log");
  const button = make("button", { type: "button", class: `log-${which}`, "aria-pressed": pressed() }, `log ${which}`);
  button.addEventListener("click", () => {
    state[which] = state[which] === "log" ? "linear" : "log";
    button.setAttribute("aria-pressed", pressed());
    draw();
  });
  return [button];
}

function frontSlider(chart, state, draw) {
  if (!chart.highlight) return [];
  const shown = make("output", {}, "all");
  const slider = make("input", { type: "range", class: "front", min: 0, max: chart.series.length, value: 0 });
  slider.addEventListener("input", () => {
    state.front = Number(slider.value) ? Number(slider.value) - 1 : null;
    shown.textContent = state.front === null ? "all" : chart.series[state.front].name;
    draw();
  });
  return [make("label", {}, chart.highlight, slider, shown)];
}

function setUp(figure) {
  const chart = DATA.charts[figure.dataset.chart];
  const plot = figure.querySelector(".plot");
  const state = { x: chart.x_scales?.[0] ?? "linear", y: chart.y_scales?.[0] ?? "linear", front: null };
  let drawn = false;
  const draw = () => {
    drawn = true;
    const traces = chart.series.map((series, index) => trace(chart, series, index, state.front));
    return Plotly.react(plot, traces, layout(chart, state, plot.clientWidth), PLOT_CONFIG);
  };
  figure.querySelector(".controls").append(
    ...scaleButton(chart, state, "x", draw), ...scaleButton(chart, state, "y", draw), ...frontSlider(chart, state, draw),
    make("button", { type: "button", class: "csv", onclick: () => download(`${slug(chart.title)}.csv`, csv(chartRows(chart))) }, "CSV"),
  );
  redraws.add(() => drawn && draw());
  return () => drawn || draw();
}

const waiting = new Map([...document.querySelectorAll("[data-chart]")].map((figure) => [figure, setUp(figure)]));
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    waiting.get(entry.target)();
  }
}, { rootMargin: "400px" });
for (const figure of waiting.keys()) near.observe(figure);
if (waiting.size) waiting.values().next().value(); // the first one at once, wherever it is

unfinished.add(() => {
  for (const [figure, draw] of waiting) if (figure.offsetParent) draw();
});
