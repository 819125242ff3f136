// Final and best figures: against one axis of the sweep, or as heat maps over two.
class Sweep extends Picture {
  constructor() {
    const references = [...new Set(data.trials.filter(t => t.group < 0).map(t => t.line))];
    const dashes = ["dash", "dot", "dashdot"];
    const levels = references.map((line, i) => ({...data.lines[line], line, dash: dashes[i % 3], symbol: null}));
    const two = data.sweep.axes.length > 1;
    super("sweep", data.sweep.y, [], two ? [] : [...data.sweep.groups, ...levels]);
    this.levels = levels;
    this.two = two;
    this.press("logx", data.sweep.axes[0].log);
    if (two || !data.sweep.axes[0].numeric) this.role("logx").hidden = true;
    this.role("band").querySelector('[value="each"]').textContent = "each trial";
    if (two) for (const part of [this.role("logy"), this.root.querySelector(".spread")]) part.hidden = true;
  }

  draw() { this.two ? this.maps() : this.against(); }

  /** The figures of finished trials; a diverged trial's loss is none. */
  figures(trials, name) {
    return trials.filter(t => isShare(name) || t.status !== "diverged")
      .map(t => t.figures[name]).filter(v => v !== null).map(v => v * scaleOf(name));
  }

  against() {
    const [axis] = data.sweep.axes, y = this.choice("y"), band = this.choice("band"), log = this.pressed("logx");
    const place = i => (log && axis.places ? axis.places : axis.values)[i];
    const words = titles(data.sweep.y)[y], count = data.sweep.groups.length, present = new Set();
    const whens = ["final", "best"], panels = this.panels(2), all = whens.map(() => []);
    whens.forEach((when, w) => {
      const name = `${when}_${y}`, traces = [], marks = [];
      data.sweep.groups.forEach((look, g) => {
        const trials = data.trials.filter(t => t.group === g && t.figures[name] !== undefined && shown(t));
        if (trials.length) present.add(g);
        if (!trials.length || this.hidden.has(g)) return;
        const safe = {...look, name: esc(look.name)}, spread = axis.numeric ? 0 : 0.5 * ((g + 0.5) / count - 0.5);
        const at = axis.values.map((_, i) => trials.filter(t => t.at[0] === i));
        if (band === "each") traces.push(...this.dots(safe, at, name, place, spread));
        const points = at.map((some, i) => ({x: place(i) + spread, ...banded(this.figures(some, name), band === "each" ? "minmax" : band)}));
        const drawn = points.filter(p => p.n);
        const whisker = {type: "data", symmetric: false, array: drawn.map(p => p.high - p.mean), arrayminus: drawn.map(p => p.mean - p.low)};
        const marker = {color: look.colour, symbol: look.symbol, size: 8};
        const bars = axis.numeric && drawn.length > 1 ? {marker} : {marker, mode: "markers", error_y: {...whisker, color: look.colour, thickness: 1.5}};
        const where = {text: drawn.map(p => axis.texts[points.indexOf(p)]), hovertemplate: "%{y:.4~g} (%{customdata})<br>%{text}<extra>%{fullData.name}</extra>"};
        traces.push(...lineTraces(safe, drawn, band === "each" || !axis.numeric ? "none" : band, band === "each" || band === "none" ? {marker, ...where} : {...bars, ...where}));
        for (const t of trials.filter(t => t.status === "diverged")) {
          const value = t.figures[name], sound = isShare(name) && value !== null;
          marks.push({x: place(t.at[0]) + spread, y: sound ? 100 * value : NaN, colour: look.colour, text: `${safe.name}, ${axis.texts[t.at[0]]}, seed ${t.seed}`});
        }
      });
      const ends = axis.values.map((_, i) => place(i)), reach = [Math.min(...ends) - (axis.numeric ? 0 : 0.5), Math.max(...ends) + (axis.numeric ? 0 : 0.5)];
      this.levels.forEach((look, i) => {
        const trials = data.trials.filter(t => t.group < 0 && t.line === look.line && shown(t)), found = banded(this.figures(trials, name), band);
        if (found) present.add(count + i);
        if (!found || this.hidden.has(count + i)) return;
        traces.push(...lineTraces({...look, name: esc(look.name)}, reach.map(x => ({x, ...found})), band));
      });
      traces.push(...crosses(marks, isShare(y), traces));
      all[w] = traces;
    });
    const range = common(all.flat());
    whens.forEach((when, w) => {
      const x = {title: axis.label, type: log ? "log" : "linear", ...this.ticks(axis, log)};
      const vertical = {title: words, type: this.pressed("logy") ? "log" : "linear", ...(range && !this.pressed("logy") ? {range} : {})};
      this.show(panels[w], all[w], x, vertical, {title: when === "final" ? "after the last epoch" : "at the best epoch"});
    });
    this.tell(present);
  }

  dots(look, at, name, place, spread) {
    const found = at.flatMap((some, i) => this.figures(some, name).map(y => ({x: place(i) + spread, y})));
    return [{x: found.map(p => p.x), y: found.map(p => p.y), mode: "markers", hoverinfo: "skip", marker: {color: shade(look.colour, 0.55), size: 5, symbol: "circle-open"}}];
  }

  ticks(axis, log) {
    if (!axis.numeric) return {tickvals: axis.values, ticktext: axis.texts.map(esc), range: [-0.5, axis.values.length - 0.5]};
    const zero = log && axis.places && axis.values.includes(0);
    const few = axis.values.length <= 6 && (!log || zero);
    if (zero && !few) { // decades, and the zero that has no place among them
      const kept = axis.values.map((v, i) => [v, i]).filter(([v]) => v === 0 || Math.abs(Math.log10(v) % 1) < 1e-9);
      return {tickvals: kept.map(([, i]) => axis.places[i]), ticktext: kept.map(([, i]) => axis.texts[i])};
    }
    if (few) return {tickvals: log ? axis.places : axis.values, ticktext: axis.texts};
    return log ? {exponentformat: "power", dtick: 1} : {};
  }

  maps() {
    const [x, y] = data.sweep.axes, name = this.choice("y"), words = titles(data.sweep.y)[name];
    const groups = data.sweep.groups, several = groups.length > 1;
    const wanted = groups.flatMap((look, g) => ["final", "best"].map(when => ({look, g, when})))
      .filter(({g}) => data.trials.some(t => t.group === g && shown(t)));
    const grids = wanted.map(({g, when}) => this.grid(g, `${when}_${name}`));
    const ends = grids.flatMap(({z}) => z.flat()).filter(Number.isFinite);
    const panels = this.panels(wanted.length);
    wanted.forEach(({look, when}, i) => {
      const trace = {
        type: "heatmap", z: grids[i].z, text: grids[i].text, x: x.texts.map((_, k) => k), y: y.texts.map((_, k) => k),
        colorscale: "Cividis", zmin: Math.min(...ends), zmax: Math.max(...ends), xgap: 1, ygap: 1, texttemplate: x.texts.length > 15 ? "" : "%{text}",
        hovertemplate: "%{text}<br>" + "%{customdata}<extra></extra>", hoverongaps: false, colorbar: {thickness: 12, outlinewidth: 0},
        customdata: y.texts.map(b => x.texts.map(a => `${esc(x.label)}: ${esc(a)}<br>${esc(y.label)}: ${esc(b)}`)),
      };
      const ticks = axis => ({title: axis.label, tickvals: axis.texts.map((_, k) => k), ticktext: axis.texts.map(esc), showgrid: false, range: [-0.5, axis.texts.length - 0.5]});
      const title = `${several ? esc(look.name) + ", " : ""}${when === "final" ? "after the last epoch" : "at the best epoch"}`;
      const level = this.levels.map(one => [one, banded(this.figures(data.trials.filter(t => t.group < 0 && t.line === one.line && shown(t)), `${when}_${name}`), "minmax")]);
      const said = level.filter(([, found]) => found).map(([one, found]) => `${esc(one.name)}: ${short(found.mean)}`).join("; ");
      this.show(panels[i], ends.length ? [trace] : [], ticks(x), ticks(y), {title: said ? `${title}<br><sub>${said}</sub>` : title, plot_bgcolor: "#f0f0f0"});
    });
    this.root.querySelector("figcaption").textContent = `Final and best figures along the sweep: ${words}`;
  }

  grid(g, name) {
    const [x, y] = data.sweep.axes, z = [], text = [];
    y.texts.forEach((_, j) => {
      z.push([]);
      text.push([]);
      x.texts.forEach((_, i) => {
        const some = data.trials.filter(t => t.group === g && t.at[0] === i && t.at[1] === j && shown(t));
        const found = banded(this.figures(some, name), "minmax"), gone = some.filter(t => t.status === "diverged").length;
        z[j].push(found ? found.mean : null);
        text[j].push((!found ? "" : isShare(name) ? found.mean.toFixed(1) : short(found.mean)) + (gone ? ` ×${gone > 1 ? gone : ""}` : ""));
      });
    });
    return {z, text};
  }
}
