"use strict";
// The page's data, what is switched on, and means with bands.
const data = JSON.parse(document.getElementById("data").textContent);
const off = data.switches.map(() => new Set()); // values switched off, one set a row of check boxes
const isShare = name => name.includes("accuracy");
const scaleOf = name => (isShare(name) ? 100 : 1);
const shown = trial => trial.switches.every((value, i) => !off[i].has(value));

/** mean, low, high and n of the finite values; null where there are none. */
function banded(values, band) {
  const v = values.filter(Number.isFinite), n = v.length;
  if (!n) return null;
  const mean = v.reduce((a, b) => a + b, 0) / n;
  if (band === "minmax") return {mean, low: Math.min(...v), high: Math.max(...v), n};
  let half = n > 1 ? Math.sqrt(v.reduce((a, b) => a + (b - mean) ** 2, 0) / (n - 1)) : 0;
  if (band === "ci95" && n > 1) half *= data.student[n] / Math.sqrt(n);
  return {mean, low: mean - half, high: mean + half, n};
}

function shade(colour, alpha) {
  const [r, g, b] = [1, 3, 5].map(i => parseInt(colour.slice(i, i + 2), 16));
  return `rgba(${r},${g},${b},${alpha})`;
}

/** Two traces of one line: its band, and its mean. points: [{x, mean, low, high, n}]. */
function lineTraces(look, points, band, extra = {}) {
  const xs = points.map(p => p.x), traces = [];
  if (band !== "none" && points.length > 1 && points.some(p => p.high > p.low)) {
    traces.push({
      x: [...xs, ...xs.slice().reverse()], y: [...points.map(p => p.high), ...points.map(p => p.low).reverse()],
      mode: "lines", fill: "toself", fillcolor: shade(look.colour, 0.15), line: {width: 0}, hoverinfo: "skip",
    });
  }
  traces.push({
    x: xs, y: points.map(p => p.mean), name: look.name, mode: look.symbol ? "lines+markers" : "lines",
    line: {color: look.colour, width: 2, dash: look.dash},
    marker: {color: look.colour, symbol: look.symbol || "circle", size: 7, maxdisplayed: 9},
    customdata: points.map(p => p.n > 1 ? `${short(p.low)} – ${short(p.high)}, ${p.n} trials` : "1 trial"),
    hovertemplate: "%{y:.4~g} (%{customdata})<br>%{x}<extra>%{fullData.name}</extra>", ...extra,
  });
  return traces;
}

/** One range for all panels of a picture, so that they can be compared. */
function common(traces) {
  const ys = traces.flatMap(t => t.y).filter(Number.isFinite);
  if (!ys.length) return null;
  const low = ys.reduce((a, b) => Math.min(a, b)), high = ys.reduce((a, b) => Math.max(a, b)), room = 0.05 * (high - low) || 1;
  return [low - room, high + room];
}

const short = value => String(+value.toPrecision(4));

/** × at each of the points, clipped to the edge of what the other lines span where there is no figure. */
function crosses(marks, share, traces) {
  if (!marks.length) return [];
  const ys = traces.flatMap(t => t.y).filter(Number.isFinite);
  const edge = ys.length ? (share ? Math.min(...ys) : Math.max(...ys)) : share ? 0 : 1;
  return [{
    x: marks.map(m => m.x), y: marks.map(m => Number.isFinite(m.y) ? m.y : edge), text: marks.map(m => m.text),
    mode: "markers", name: "diverged", hovertemplate: "%{text}<extra>diverged</extra>", cliponaxis: false,
    marker: {symbol: "x-thin", size: 10, color: marks.map(m => m.colour), line: {width: 2.4, color: marks.map(m => m.colour)}},
  }];
}
