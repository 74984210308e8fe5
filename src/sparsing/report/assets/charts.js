// Draws the charts of the page with Plotly from the descriptions in the data (see chart.py). Each chart is drawn when it
// comes near the screen, and again when its controls or the colours change.
"use strict";

const HOVER_DIGITS = ".4~g";
const NAME_LENGTH = 22;
const PHONE_WIDTH = 480;
const LETTER = 7.5; // pixels of a letter of a label, with room
const UPRIGHT_LETTER = 8; // pixels between upright labels
const HEAT_MAP_MARGINS = 160; // pixels of the title, the labels and the colour bar
const LONG_TITLE = 24; // letters
// The markers of style.py, by Plotly's names.
const SYMBOLS = ["circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x", "star"];

// Escapes text for Plotly, which interprets some HTML tags in its labels, and formulas between dollar signs.
function label(text) {
  return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll("$", "&#36;");
}

// The colour of a layer, interpolated between the colours that style.py gives.
function depthColour(depth) {
  const { stops, light, dark } = DATA.depth_scale;
  const [first, last] = isDark() ? dark : light;
  const at = (first + (last - first) * depth) * (stops.length - 1);
  const mix = (a, b, t) => Math.round(a + (b - a) * t);
  const parts = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  const low = parts(stops[Math.floor(at)]);
  const high = parts(stops[Math.ceil(at)]);
  return `rgb(${low.map((value, i) => mix(value, high[i], at % 1)).join(",")})`;
}

function isDark() {
  const theme = document.documentElement.dataset.theme ?? "auto";
  return theme === "dark" || (theme === "auto" && matchMedia("(prefers-color-scheme: dark)").matches);
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

// The positions of a series around its category on the x axis; the CSV keeps the whole numbers.
function positions(chart, series, index) {
  if (!chart.side_by_side) return series.x;
  const step = Math.min(0.15, 0.7 / chart.series.length);
  return series.x.map((x) => x + step * (index - (chart.series.length - 1) / 2));
}

// On a log axis, values below the floor are drawn at it: a share of 0 would otherwise vanish.
function floored(values, axis, scale) {
  return scale === "log" && axis.floor ? values.map((value) => (value === null ? null : Math.max(value, axis.floor))) : values;
}

function seriesTrace(chart, series, index, state) {
  const number = series.colour ?? index;
  const tint = series.depth === undefined ? colour(`c${number % SYMBOLS.length}`) : depthColour(series.depth);
  const shape = { both: "lines+markers", lines: "lines", points: "markers", open: "markers" }[series.mode ?? "both"];
  const many = series.x.length > 100;
  const behind = state.front !== null && state.front !== index;
  const named = (axis, values) => values.map((value) => label(axis.names[value]));
  const hover = (axis, key, place) => `${label(axis.label)}: ` + (axis.names ? `%{customdata[${place}]}` : `%{${key}:${HOVER_DIGITS}}`);
  return {
    type: "scatter", name: label(series.name), x: positions(chart, series, index), y: floored(series.y, chart.y, state.y),
    mode: series.values ? `${shape}+text` : shape,
    opacity: behind ? 0.12 : series.faint ? 0.5 : 1,
    showlegend: series.listed !== false,
    line: {
      color: tint, width: state.front === index ? 3 : series.faint ? 0.7 : series.depth === undefined ? 2 : 1.3,
      dash: series.dashed ? "dash" : "solid",
    },
    marker: {
      color: tint, size: many ? 4 : 7, symbol: series.mode === "open" ? `${SYMBOLS[number % SYMBOLS.length]}-open` : SYMBOLS[number % SYMBOLS.length],
      opacity: many ? 0.55 : 1,
    },
    error_x: bars(series.x, series.x_low, series.x_high, tint),
    error_y: bars(series.y, series.y_low, series.y_high, tint),
    hoverinfo: behind ? "skip" : undefined,
    text: series.values?.map(label), textposition: "top center", textfont: { size: 11, color: colour("ink") },
    customdata: series.x.map((x, i) => [
      chart.x.names ? label(chart.x.names[x]) : "", chart.y.names ? label(chart.y.names[series.y[i]]) : "", label(series.text?.[i] ?? ""),
    ]),
    hovertemplate: `${label(series.name)}<br>${hover(chart.y, "y", 1)}<br>${hover(chart.x, "x", 0)}` +
      (series.text ? "<br>%{customdata[2]}" : "") + "<extra></extra>",
  };
}

// A band is two traces, its ends; Plotly fills from the second to the first.
function bandTraces(band) {
  const tint = colour(`c${band.colour}`);
  const end = (y, extra) => ({
    type: "scatter", mode: "lines", x: band.x, y, line: { width: 0, color: tint }, hoverinfo: "skip", name: label(band.name), ...extra,
  });
  const fill = tint.replace("rgb(", "rgba(").replace(")", ", 0.25)");
  return [end(band.low, { showlegend: false }), end(band.high, { fill: "tonexty", fillcolor: fill })];
}

// The cells as columns of equal length: x, y and value.
function cells(heatMap) {
  return heatMap.values.flatMap((row, y) => row.map((value, x) => [x, y, value]));
}

function heatTrace(chart) {
  const all = cells(chart.heat_map);
  const column = (i) => all.map((cell) => cell[i]);
  const { stops } = DATA.depth_scale;
  return {
    type: "heatmap", x: column(0), y: column(1), z: column(2),
    colorscale: stops.map((stop, i) => [i / (stops.length - 1), stop]),
    colorbar: { title: { text: label(chart.heat_map.label), side: "right" }, thickness: 12, outlinewidth: 0 },
    text: all.map(([x, y]) => `${label(chart.x.names?.[x] ?? x)}<br>${label(chart.y.label)}: ${label(chart.y.names?.[y] ?? String(y))}`),
    hovertemplate: `%{text}<br>${label(chart.heat_map.label)}: %{z:${HOVER_DIGITS}}<extra></extra>`,
  };
}

function traces(chart, state) {
  return [
    ...(chart.heat_map ? [heatTrace(chart)] : []), ...(chart.bands ?? []).flatMap(bandTraces),
    ...(chart.series ?? []).map((series, index) => seriesTrace(chart, series, index, state)),
    ...onlyMark(chart).map(markTrace),
  ];
}

// The mark of a chart that has a single one across the plot. It is named in the legend, where it lies on no point.
function onlyMark(chart) {
  const marks = (chart.marks ?? []).filter((mark) => mark.at !== undefined && mark.label);
  return marks.length === 1 && (marks[0].axis ?? "y") === "y" ? marks : [];
}

function markTrace(mark) {
  return { type: "scatter", meta: "mark", mode: "lines", x: [null], y: [null], name: label(mark.label), hoverinfo: "skip", line: { color: colour("muted"), width: 1, dash: "dot" } };
}

function axisLayout(chart, which, scale, width) {
  const axis = chart[which];
  const grey = colour("line");
  const made = {
    title: { text: axisTitle(axis, which, width), standoff: 10 }, type: scale, automargin: true, exponentformat: "B",
    gridcolor: grey, linecolor: grey, zerolinecolor: grey, tickcolor: grey,
  };
  const values = (chart.series ?? []).flatMap((series) => [...series[which]]);
  if (scale === "log") Object.assign(made, logTicks(floored(values, axis, scale)));
  if (axis.names) {
    const names = axis.names.map((name) => label(name.length > NAME_LENGTH ? `${name.slice(0, NAME_LENGTH - 1)}\u2026` : name));
    const range = which === "x" ? [-0.5, names.length - 0.5] : [names.length - 0.5, -0.9]; // the first row on top
    Object.assign(made, { tickvals: names.map((_, i) => i), ticktext: names, range });
    if (chart.heat_map && which === "x") Object.assign(made, { tickangle: -90, tickfont: { size: 10 } }, everyNth(names, axis, width));
    // Plotly drops slanted labels that touch; upright ones all have room
    else if (which === "x" && names.join("").length * LETTER > width) made.tickangle = -90;
    if (which === "y") made.showgrid = false;
  } else if (axis.low !== undefined || axis.high !== undefined) {
    Object.assign(made, visibleRange(axis, scale));
  }
  if (axis.whole) Object.assign(made, { tickformat: "d", dtick: layerCount(chart, which) <= 12 ? 1 : undefined });
  return made;
}

// On a phone a plot is lower than a long title of its y axis, which therefore gets two lines.
function axisTitle(axis, which, width) {
  if (which === "x" || width >= PHONE_WIDTH || axis.label.length <= LONG_TITLE) return label(axis.label);
  const middle = axis.label.length / 2;
  const breaks = [...axis.label.matchAll(/ /g)].map((space) => space.index);
  const at = breaks.sort((a, b) => Math.abs(a - middle) - Math.abs(b - middle))[0];
  return at === undefined ? label(axis.label) : `${label(axis.label.slice(0, at))}<br>${label(axis.label.slice(at + 1))}`;
}

// The columns of a heat map may be narrower than their labels; then every n-th is named, and the title says so.
function everyNth(names, axis, width) {
  const step = Math.ceil((names.length * UPRIGHT_LETTER) / (width - HEAT_MAP_MARGINS));
  if (step < 2) return {};
  const kept = names.map((_, i) => i).filter((i) => i % step === 0);
  return { tickvals: kept, ticktext: kept.map((i) => names[i]), title: { text: `${label(axis.label)} (1 in ${step} is named)`, standoff: 10 } };
}

// A fixed range, or one fixed end with the other fitted to the data.
function visibleRange({ low, high }, scale) {
  if (scale === "log") return low > 0 && high > 0 ? { range: [Math.log10(low), Math.log10(high)] } : {};
  return low !== undefined && high !== undefined ? { range: [low, high] } : { autorangeoptions: { minallowed: low, maxallowed: high } };
}

function layerCount(chart, which) {
  return chart.heat_map ? chart.heat_map.values.length : chart.series[0][which].length;
}

// Ticks at 1, 2 and 5 times the powers of ten, or at fewer of these where the axis spans many powers.
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

// The line of a mark and the shaded interval around it.
function markShapes(mark) {
  const across = (from, to) => ((mark.axis ?? "y") === "y"
    ? { x0: 0, x1: 1, xref: "paper", y0: from, y1: to } : { y0: 0, y1: 1, yref: "paper", x0: from, x1: to });
  const grey = colour("muted");
  const line = mark.at === undefined ? [] : [{ type: "line", line: { color: grey, width: 1, dash: "dot" }, ...across(mark.at, mark.at) }];
  const span = mark.low === undefined ? [] : [{ type: "rect", line: { width: 0 }, fillcolor: grey, opacity: 0.15, layer: "below", ...across(mark.low, mark.high) }];
  return [...span, ...line];
}

function markLabel(mark, state) {
  const which = mark.axis ?? "y";
  const at = state[which] === "log" ? Math.log10(mark.at) : mark.at;
  const place = which === "y"
    ? { x: 1, xref: "paper", y: at, xanchor: "right", yanchor: "bottom" }
    : { y: 1, yref: "paper", x: at, xanchor: "left", yanchor: "top", textangle: -90 };
  return { ...place, showarrow: false, text: label(mark.label), font: { size: 11, color: colour("muted") } };
}

function layout(chart, state, width) {
  const ink = colour("ink");
  const marks = chart.marks ?? [];
  const shapes = marks.flatMap(markShapes);
  if (chart.diagonal) shapes.push({ type: "line", line: { color: colour("muted"), width: 1, dash: "dot" }, ...diagonal(chart) });
  const listed = (chart.bands ?? []).length + (chart.series ?? []).filter((series) => series.listed !== false).length + 2 * onlyMark(chart).length;
  return {
    autosize: true, margin: { l: 56, r: 12, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    // without a colour it is a black bar over the data, since the page below is transparent
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("muted"), activecolor: ink },
    font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily }, colorway: [ink],
    xaxis: axisLayout(chart, "x", state.x, width), yaxis: axisLayout(chart, "y", state.y, width), shapes,
    annotations: marks.filter((mark) => !onlyMark(chart).length && mark.at !== undefined && mark.label).map((mark) => markLabel(mark, state)),
    hovermode: "closest",
    dragmode: width < PHONE_WIDTH ? false : "zoom", // on a phone, dragging scrolls the page
    showlegend: listed > 1,
    // below the plot, but above it where the names on the x axis may be slanted
    legend: { orientation: "h", x: 0, ...(chart.x.names ? { y: 1.02, yanchor: "bottom" } : { y: width < PHONE_WIDTH ? -0.32 : -0.22, yanchor: "top" }), font: { size: 12 }, itemsizing: "constant" },
    hoverlabel: { bgcolor: colour("panel"), bordercolor: colour("line"), font: { color: ink }, align: "left" },
  };
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

// The numbers of a chart as rows of a CSV file: cells of a heat map, ends of bands, points of series.
function chartRows(chart) {
  const series = chart.series ?? [];
  const extra = ["x_low", "x_high", "y_low", "y_high", "text"].filter((name) => series.some((one) => one[name]));
  const named = ["x", "y"].filter((which) => chart[which].names);
  const row = (name, x, y, more) => [name, x, y, ...more, ...named.map((which) => chart[which].names[which === "x" ? x : y])];
  const empty = extra.map(() => null);
  if (chart.heat_map) {
    const { label: head } = chart.heat_map;
    return [["series", chart.x.label, chart.y.label, head, ...named.map((which) => `name of ${which}`)],
      ...cells(chart.heat_map).map(([x, y, value]) => row(head, x, y, [value]))];
  }
  const bands = (chart.bands ?? []).flatMap((band) => ["low", "high"].flatMap((end) =>
    band.x.map((x, i) => row(`${band.name}, ${end}`, x, band[end][i], empty))));
  const points = series.flatMap((one) => one.x.map((x, i) => row(one.name, x, one.y[i], extra.map((name) => one[name]?.[i]))));
  return [["series", chart.x.label, chart.y.label, ...extra, ...named.map((which) => `name of ${which}`)], ...bands, ...points];
}

function scaleButton(chart, state, which, draw) {
  const scales = chart[which].scales ?? ["linear"];
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
  const state = { x: chart.x.scales?.[0] ?? "linear", y: chart.y.scales?.[0] ?? "linear", front: null };
  let drawn = false;
  const draw = () => {
    drawn = true;
    return Plotly.react(plot, traces(chart, state), layout(chart, state, plot.clientWidth), PLOT_CONFIG);
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
if (waiting.size) waiting.values().next().value(); // the first chart is drawn at once, wherever it is

unfinished.add(() => {
  for (const [figure, draw] of waiting) if (figure.offsetParent) draw();
});
