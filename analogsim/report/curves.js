// Learning curves, and what every picture has: its choices, its legend, its layout.
const canHover = matchMedia("(hover: hover)").matches; // a finger scrolls the page instead

class Picture {
  constructor(id, ys, xs, lines) {
    this.root = document.getElementById(id);
    this.lines = lines;
    this.hidden = new Set();
    this.role = name => this.root.querySelector(`[data-role="${name}"]`);
    for (const [name, choices] of [["y", ys], ["x", xs]])
      for (const [value, words] of choices) this.role(name).add(new Option(words, value));
    this.role("band").value = data.band;
    this.root.querySelector(".along").hidden = xs.length < 2;
    for (const select of this.root.querySelectorAll("select")) select.onchange = () => this.draw();
    for (const name of ["logx", "logy"])
      this.role(name).onclick = () => { this.press(name, !this.pressed(name)); this.draw(); };
    this.buttons = lines.map((look, i) => this.legendButton(look, i));
  }
  choice(name) { return this.role(name).value; }
  pressed(name) { return this.role(name).getAttribute("aria-pressed") === "true"; }
  press(name, on) { this.role(name).setAttribute("aria-pressed", on); }

  legendButton(look, i) {
    const button = document.createElement("button");
    button.type = "button";
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), key = [];
    const dash = {solid: "", dash: "6 3", dot: "2 2", dashdot: "6 2 2 2", longdash: "10 3", longdashdot: "10 3 2 3"}[look.dash];
    svg.setAttribute("viewBox", "0 0 30 12");
    svg.setAttribute("aria-hidden", "true");
    const line = document.createElementNS(svg.namespaceURI, "path");
    line.setAttribute("d", "M1 6H29");
    line.setAttribute("stroke-dasharray", dash);
    key.push(line);
    const shape = {
      circle: "M11 6a4 4 0 1 0 8 0a4 4 0 1 0 -8 0", square: "M11.5 2.5h7v7h-7z", diamond: "M15 1l5 5l-5 5l-5 -5z",
      "triangle-up": "M15 1.5l4.5 8h-9z", "triangle-down": "M15 10.5l4.5 -8h-9z",
      cross: "M13.5 2h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z", x: "M12 3l6 6M18 3l-6 6",
    }[look.symbol];
    if (shape) {
      const mark = document.createElementNS(svg.namespaceURI, "path");
      mark.setAttribute("d", shape);
      mark.setAttribute("fill", look.colour);
      key.push(mark);
    }
    for (const part of key) part.setAttribute("stroke", look.colour);
    svg.append(...key);
    button.append(svg, look.name);
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => { this.hidden.delete(i) || this.hidden.add(i); this.draw(); };
    button.ondblclick = () => {
      const alone = this.lines.every((_, j) => j === i || this.hidden.has(j));
      this.hidden = new Set(alone ? [] : this.lines.keys());
      if (!alone) this.hidden.delete(i);
      this.draw();
    };
    this.root.querySelector(".legend").append(button);
    return button;
  }

  /** Grey what is hidden; leave out what the check boxes leave nothing of. */
  tell(present) {
    this.buttons.forEach((button, i) => {
      button.setAttribute("aria-pressed", !this.hidden.has(i));
      button.hidden = !present.has(i) || this.lines.length < 2;
    });
  }

  panels(count) {
    const box = this.root.querySelector(".panels");
    while (box.children.length > count) { Plotly.purge(box.lastChild); box.lastChild.remove(); }
    while (box.children.length < count) box.append(Object.assign(document.createElement("div"), {className: "panel"}));
    return [...box.children];
  }

  /** Draw one panel. x: of its axis {title, type, …}; y likewise. */
  show(panel, traces, x, y, more = {}) {
    const axis = {automargin: true, gridcolor: "#e4e4e4", linecolor: "#888", ticks: "outside", tickcolor: "#888", zeroline: false};
    const titled = given => ({...axis, ...given, title: {text: given.title, standoff: 8}});
    const layout = {
      xaxis: titled(x), yaxis: titled(y), showlegend: false, hovermode: "closest", dragmode: canHover ? "zoom" : false,
      margin: {l: 56, r: 14, t: more.title ? 34 : 12, b: 48}, paper_bgcolor: "white", plot_bgcolor: "white",
      font: {family: "system-ui, sans-serif", size: 13, color: "#222"}, ...more,
      title: more.title ? {text: more.title, font: {size: 14}, x: 0, xref: "paper", xanchor: "left"} : undefined,
    };
    if (!traces.length) {
      const say = {text: "nothing to show", showarrow: false, xref: "paper", yref: "paper", x: 0.5, y: 0.5, font: {color: "#666"}};
      Object.assign(layout, {annotations: [say], xaxis: {visible: false}, yaxis: {visible: false}});
    }
    const tools = {modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]], displayModeBar: canHover ? "hover" : false};
    Plotly.react(panel, traces, layout, {responsive: true, displaylogo: false, ...tools});
  }
}

class Curves extends Picture {
  constructor() {
    super("curves", data.curves.y, data.curves.x, data.lines);
    if (data.lines.length > 16) this.role("band").value = "none"; // bands upon bands tell nothing
    this.role("y").onchange = () => { this.fit(); this.draw(); };
    this.fit();
  }

  /** A loss over two decades begins on a logarithmic axis. */
  fit() {
    const y = this.choice("y");
    const all = isShare(y) ? [] : data.trials.flatMap(t => t.curve && t.status === "ok" ? t.curve[y] || [] : []).filter(v => v > 0);
    const low = all.reduce((a, b) => Math.min(a, b), Infinity), high = all.reduce((a, b) => Math.max(a, b), 0);
    this.press("logy", high / low >= 99);
  }

  draw() {
    const [x, y, band] = ["x", "y", "band"].map(name => this.choice(name)), titled = data.panels.length > 1;
    const present = new Set(), words = titles([...data.curves.x, ...data.curves.y]);
    const drawn = data.panels.map((name, panel) => this.traces(panel, x, y, band, present)), some = drawn.filter(t => t.length);
    const panels = this.panels(Math.max(1, some.length)), range = titled && !this.pressed("logy") ? common(drawn.flat()) : null;
    const few = !this.pressed("logx") && data.trials.every(t => !t.curve || t.curve.epoch[t.curve.epoch.length - 1] <= 10);
    const type = name => (this.pressed(name) ? "log" : "linear");
    panels.forEach((panel, i) => {
      const name = titled && some.length ? esc(data.panels[drawn.indexOf(some[i])]) : "";
      const vertical = {title: words[y], type: type("logy"), ...(range ? {range} : {})};
      this.show(panel, some[i] || [], {title: words[x], type: type("logx"), ...(x === "epoch" && few ? {tick0: 0, dtick: 1} : {})}, vertical, name ? {title: name} : {});
    });
    this.tell(present);
  }

  /** The lines of one panel, and the references, which stand in all of them. */
  traces(panel, x, y, band, present) {
    const traces = [], marks = [];
    let own = 0;
    this.lines.forEach((look, i) => {
      if (look.panel !== panel && look.panel >= 0) return;
      const trials = data.trials.filter(t => t.line === i && t.curve && t.curve[y] && shown(t));
      if (trials.length) present.add(i);
      if (!trials.length || this.hidden.has(i)) return;
      own += look.panel === panel;
      traces.push(...this.line(look, trials, x, y, band));
      for (const t of trials.filter(t => t.status === "diverged")) {
        const end = t.curve.epoch.length - 1, value = t.curve[y][end];
        const at = {x: t.curve[x][end], y: isShare(y) && value !== null ? 100 * value : NaN};
        marks.push({...at, colour: look.colour, text: `${esc(look.name)}, seed ${t.seed}, epoch ${t.curve.epoch[end]}`});
      }
    });
    return own || panel === 0 ? [...traces, ...crosses(marks, isShare(y), traces)] : [];
  }

  line(look, trials, x, y, band) {
    const scale = scaleOf(y), safe = {...look, name: esc(look.name)};
    if (band === "each") return trials.map(t => ({
      x: t.curve[x], y: t.curve[y].map(v => v === null ? null : v * scale), name: `${safe.name}, seed ${t.seed}`, mode: "lines",
      line: {color: look.colour, width: 1.3, dash: look.dash}, hovertemplate: "%{y:.4~g}<br>%{x}<extra>%{fullData.name}</extra>",
    }));
    const at = new Map(); // epoch -> {xs, ys}
    for (const t of trials) t.curve.epoch.forEach((epoch, k) => {
      if (!at.has(epoch)) at.set(epoch, {xs: [], ys: []});
      const last = t.status === "diverged" && k === t.curve.epoch.length - 1;
      at.get(epoch).xs.push(t.curve[x][k]);
      if (!(last && !isShare(y))) at.get(epoch).ys.push(t.curve[y][k]);
    });
    if (isShare(y)) for (const t of trials.filter(t => t.status === "diverged")) {
      const end = t.curve.epoch.length - 1; // held, so that the mean does not rise for its going
      for (const [epoch, found] of at) if (epoch > t.curve.epoch[end]) found.ys.push(t.curve[y][end]);
    }
    const points = [...at].sort((a, b) => a[0] - b[0]).map(([, {xs, ys}]) => {
      const found = banded(ys.map(v => v === null ? NaN : v * scale), band);
      return found && {x: xs.reduce((a, b) => a + b, 0) / xs.length, ...found};
    });
    return lineTraces(safe, points.filter(Boolean), band);
  }
}

const titles = choices => Object.fromEntries(choices.map(([name, , title]) => [name, title]));

/** plotly takes a few tags in names for its own; let none through. */
function esc(text) { return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;"); }
