"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const root = document.documentElement;
  const $ = (id) => document.getElementById(id);
  const state = { part: 0, quantity: 0, x: 0, y: 1, at: [] };
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["lasso2d", "select2d"] };

  // Numbers arrive as base64 of little-endian arrays.
  const unpacked = new Map();
  const unpack = (text, Kind) => {
    if (!unpacked.has(text)) {
      const raw = atob(text), bytes = new Uint8Array(raw.length);
      for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
      unpacked.set(text, new Kind(bytes.buffer));
    }
    return unpacked.get(text);
  };
  const floats = (text) => unpack(text, Float32Array);
  const words = (x) => (Number.isFinite(x) ? Number(x.toPrecision(4)).toString() : "not defined");
  // As with_bar in Python: two digits of the bar, never less than it is, and as many places of the value.
  const withBar = (x, e) => {
    if (!(e > 0 && e < Infinity)) return `${words(x)} ± ${e === 0 ? 0 : "unknown"}`;
    const power = Math.floor(Math.log10(e)), up = Math.ceil((e / 10 ** (power - 1)) * (1 - 1e-6));
    const bar = Number(`${up}e${power - 1}`), size = x ? Math.floor(Math.log10(Math.abs(x))) : power;
    const digits = Math.min(Math.max(4, size - power + 2), 17);
    return `${Number(x.toPrecision(digits))} ± ${bar < 1e-3 ? bar.toExponential() : bar}`;
  };
  const inUnit = (unit) => (unit ? ` ${unit}` : "");
  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });

  // Colours of the page, so that plots follow it from light to dark.
  const colour = (name) => getComputedStyle(root).getPropertyValue(`--${name}`).trim();
  const layout = (more) => {
    const axis = { gridcolor: colour("line"), zerolinecolor: colour("line"), linecolor: colour("line") };
    const title = (text) => ({ ...axis, title: { text } });
    const { x, y, z, ...others } = more;
    const base = {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, autosize: true,
      font: { color: colour("ink"), family: 'system-ui, "Segoe UI", sans-serif', size: 13 },
      margin: { l: 64, r: 16, t: 16, b: 52 },
      hoverlabel: { bgcolor: colour("panel"), font: { color: colour("ink") }, bordercolor: colour("line") },
    };
    if (z !== undefined) {
      const three = (text) => ({ ...title(text), backgroundcolor: "rgba(0,0,0,0)", nticks: 5 });
      base.scene = { xaxis: three(x), yaxis: three(y), zaxis: three(z), aspectmode: "data", dragmode: "orbit" };
      base.margin = { l: 0, r: 0, t: 0, b: 0 };
    } else {
      Object.assign(base, { xaxis: title(x), yaxis: title(y) });
    }
    for (const name of ["xaxis", "yaxis"]) if (others[name]) Object.assign(base[name], others[name]);
    for (const [name, value] of Object.entries(others)) if (!base[name]) base[name] = value;
    return base;
  };
  const scale = (quantity) => ({
    colorscale: quantity.signed ? "RdBu" : "Viridis", reversescale: quantity.signed,
    cmin: quantity.limits[0], cmax: quantity.limits[1],
  });
  const colourBar = (quantity) => ({
    title: { text: quantity.label, side: "right" }, thickness: 14, outlinewidth: 0, tickfont: { color: colour("ink") },
  });
  const hasWebGL = (() => {
    try { return !!document.createElement("canvas").getContext("webgl"); } catch { return false; }
  })();

  const part = () => data.parts[state.part];
  const quantity = () => part().quantities[state.quantity];
  const fill = (select, names, chosen) => {
    select.replaceChildren(...names.map((name, k) => new Option(name, k, k === chosen, k === chosen)));
  };

  // What is known of one of the points that are drawn, with its image.
  const showPoint = (k, title = "The point under the pointer") => {
    const { axes, points, quantities, images } = part();
    const box = $("point");
    if (!box) return;
    const drawn = $("points");
    if (drawn && drawn.data) {
      const last = drawn.data.length - 1, { x, y, z } = drawn.data[0];
      const at = { x: [[x[k]]], y: [[y[k]]], ...(z ? { z: [[z[k]]] } : {}) };
      if (box.dataset.point !== String(k)) Plotly.restyle(drawn, at, [last]);
    }
    box.dataset.point = k;
    const rows = axes.map((axis, j) => [axis.label, words(floats(points.coordinates)[k * axes.length + j])]);
    for (const q of quantities) {
      rows.push([q.label, withBar(floats(q.values)[k], floats(q.errors)[k])]);
    }
    const table = document.createElement("table");
    for (const row of rows) {
      const line = table.insertRow();
      for (const text of row) line.append(element("td", text));
    }
    box.replaceChildren(element("h3", title));
    if (images) {
      const canvas = element("canvas", "");
      canvas.width = images.width;
      canvas.height = images.height;
      canvas.setAttribute("aria-label", "image of the point");
      const sheet = sheets[state.part];
      const draw = () => canvas.getContext("2d").drawImage(
        sheet, (k % images.columns) * images.width, Math.floor(k / images.columns) * images.height,
        images.width, images.height, 0, 0, images.width, images.height);
      if (sheet.complete) draw(); else sheet.addEventListener("load", draw);
      box.append(canvas);
    }
    box.append(table);
  };
  const sheets = (data.parts || []).map(({ images }) => {
    const sheet = new Image();
    if (images) sheet.src = images.src;
    return sheet;
  });

  const drawPoints = () => {
    const { points, chord } = part();
    const q = quantity(), size = points.names.length, all = floats(points.positions);
    const column = (array, j) => Array.from({ length: array.length / size }, (_, k) => array[k * size + j]);
    const three = size === 3 && hasWebGL;
    const marker = { color: Array.from(floats(q.values)), size: three ? 4 : 7, ...scale(q), colorbar: colourBar(q),
      line: { width: 0 } };
    const place = (array) => ({ x: column(array, 0), y: column(array, 1), ...(three ? { z: column(array, 2) } : {}) });
    const type = three ? "scatter3d" : "scatter";
    const traces = [{ type, mode: "markers", ...place(all), marker, hoverinfo: "none" }];
    if (chord) {
      traces.push({ type, mode: "lines+markers", ...place(floats(chord)), hoverinfo: "name",
        name: "where the reach is decided", line: { color: colour("other"), width: three ? 6 : 3 },
        marker: { color: colour("other"), size: three ? 7 : 11 } });
    }
    traces.push({ type, mode: "markers", ...place(all.slice(0, size)), hoverinfo: "skip",
      marker: { color: colour("ink"), symbol: "circle-open", size: three ? 9 : 14, line: { width: 3 } } });
    const [x, y, z] = points.names;
    const equal = { yaxis: { scaleanchor: "x", scaleratio: 1 } };
    Plotly.react("points", traces, layout(three ? { x, y, z, uirevision: "points" } : { x, y, ...equal }), config);
    $("point").dataset.point = "";
    showPoint(Math.floor(floats(points.coordinates).length / Math.max(1, part().axes.length) / 2), "One of the points");
  };

  const strides = (shape) => shape.map((_, k) => shape.slice(k + 1).reduce((a, b) => a * b, 1));
  const drawMap = () => {
    const { map, axes } = part(), q = quantity();
    if (!map) return;
    const values = floats(q.map[0]), errors = floats(q.map[1]), step = strides(map.shape);
    const plot = $("map");
    if (map.shape.length === 1) {
      const x = map.samples[0], up = [], down = [];
      values.forEach((v, k) => { up.push(v + errors[k]); down.push(v - errors[k]); });
      const band = { x: [...x, ...[...x].reverse()], y: [...up, ...down.reverse()], fill: "toself", mode: "lines",
        line: { width: 0 }, fillcolor: colour("other"), opacity: 0.3, hoverinfo: "skip" };
      const line = { x, y: Array.from(values), mode: "lines", line: { color: colour("mark"), width: 2 },
        customdata: Array.from(errors), hovertemplate: "%{x:.4g}: %{y:.4g} ± %{customdata:.1g}<extra></extra>" };
      Plotly.react(plot, [band, line], layout({ x: axes[0].label, y: q.label }), config);
      return;
    }
    const base = state.at.reduce((sum, i, k) => (k === state.x || k === state.y ? sum : sum + i * step[k]), 0);
    const slice = (array) => map.samples[state.y].map((_, i) => map.samples[state.x].map((_, j) =>
      array[base + i * step[state.y] + j * step[state.x]]));
    const { cmin, cmax, ...rest } = scale(q);
    const trace = { type: "heatmap", x: map.samples[state.x], y: map.samples[state.y], z: slice(values),
      customdata: slice(errors), zmin: cmin, zmax: cmax, ...rest, colorbar: colourBar(q),
      hovertemplate: `${axes[state.x].label} %{x:.4g}<br>${axes[state.y].label} %{y:.4g}` +
        "<br>%{z:.4g} ± %{customdata:.1g}<extra></extra>" };
    Plotly.react(plot, [trace], layout({ x: axes[state.x].label, y: axes[state.y].label }), config);
  };
  const mapControls = () => {
    const { map, axes } = part(), box = $("sliders");
    if (!map || !box) return;
    box.replaceChildren();
    const names = axes.map((axis) => axis.label);
    if (axes.length > 1) {
      for (const [which, other] of [["x", "y"], ["y", "x"]]) {
        const label = element("label", which === "x" ? "horizontal" : "vertical");
        const select = document.createElement("select");
        select.id = `map-${which}`;
        fill(select, names, state[which]);
        select.onchange = () => {
          const chosen = Number(select.value);
          if (chosen === state[other]) state[other] = state[which];
          state[which] = chosen;
          mapControls();
          drawMap();
        };
        label.append(select);
        box.append(label);
      }
    }
    axes.forEach((axis, k) => {
      if (k === state.x || k === state.y || axes.length === 1) return;
      const text = () => `${axis.label}: ${words(map.samples[k][state.at[k]])}`;
      const label = element("label", text());
      const slider = Object.assign(document.createElement("input"), {
        type: "range", min: 0, max: map.shape[k] - 1, value: state.at[k], className: "slider" });
      slider.setAttribute("aria-label", axis.label);
      slider.oninput = () => {
        state.at[k] = Number(slider.value);
        label.firstChild.textContent = text();
        drawMap();
      };
      label.append(slider);
      box.append(label);
    });
  };

  const drawHistogram = () => {
    const q = quantity(), { edges, counts } = q.histogram;
    if (!counts.length) { Plotly.react("histogram", [], layout({ x: q.label, y: "points" }), config); return; }
    const middle = counts.map((_, k) => (edges[k] + edges[k + 1]) / 2);
    const bars = { type: "bar", x: middle, y: counts, width: edges[1] - edges[0], marker: { color: colour("mark") },
      hovertemplate: "%{x:.4g}: %{y} points<extra></extra>" };
    const shapes = [{ type: "line", yref: "paper", y0: 0, y1: 1, x0: q.median, x1: q.median,
      line: { color: colour("other"), width: 2 } }];
    if (Number.isFinite(q.bar) && q.bar !== null) {
      shapes.push({ type: "rect", yref: "paper", y0: 0, y1: 1, x0: q.median - q.bar, x1: q.median + q.bar,
        fillcolor: colour("other"), opacity: 0.25, line: { width: 0 } });
    }
    Plotly.react("histogram", [bars], layout({ x: q.label, y: "points", shapes, bargap: 0 }), config);
    $("histogram-words").textContent =
      `Median ${withBar(q.median, q.bar === null ? NaN : q.bar)}${inUnit(q.unit)}. ${q.verdict}`;
  };
  const drawBars = () => {
    const q = quantity(), values = floats(q.values), errors = floats(q.errors), small = unpack(q.resolved, Uint8Array);
    const traces = [["resolved", 1, "mark"], ["not resolved", 0, "other"]].map(([name, wanted, paint]) => {
      const keep = [];
      small.forEach((flag, k) => { if (flag === wanted && errors[k] > 0 && values[k] !== 0) keep.push(k); });
      return { mode: "markers", name, x: keep.map((k) => Math.abs(values[k])), y: keep.map((k) => errors[k]),
        customdata: keep, marker: { color: colour(paint), size: 6, opacity: 0.55, symbol: wanted ? "circle" : "x" },
        hovertemplate: "%{x:.4g} ± %{y:.1g}<extra></extra>" };
    });
    const log = { type: "log", exponentformat: "power", dtick: 1 };
    const narrow = { type: "log", exponentformat: "power" };
    const x = q.signed ? `size of ${q.label}` : q.label;
    const more = { x, y: "error bar", xaxis: narrow, yaxis: log, legend: { x: 0, y: 1, orientation: "h" } };
    Plotly.react("bars", traces, { ...layout(more), showlegend: true }, config);
  };

  const drawAll = () => { drawPoints(); drawMap(); drawHistogram(); drawBars(); };
  const startPart = () => {
    const { map, quantities } = part();
    state.quantity = Math.min(state.quantity, quantities.length - 1);
    if (map) {
      state.at = map.shape.map((size) => Math.floor(size / 2));
      const longest = map.shape.map((size, k) => [size, k]).sort((a, b) => b[0] - a[0]).map(([, k]) => k);
      [state.x, state.y] = map.shape.length > 1 ? [longest[0], longest[1]] : [0, 0];
    }
    fill($("quantity"), quantities.map((q) => q.label), state.quantity);
    mapControls();
    drawAll();
  };
  const listen = (id, event, then) => {
    $(id).on(event, ({ points: [hit] }) => { if (hit.curveNumber === 0 || id === "bars") then(hit); });
  };

  // Rows of a table against each other.
  const drawExplorer = (k) => {
    const { columns } = data.tables[k], pick = (name) => $(`${name}-${k}`);
    const [x, y] = ["x", "y"].map((name) => columns[Number(pick(name).value)]);
    const by = columns[Number(pick("by").value)];
    const marks = ["circle", "square", "diamond", "cross", "x", "triangle-up", "star"];
    const groups = by ? [...new Set(by.values)] : [""];
    const paints = data.palette;
    const traces = groups.map((name, g) => {
      const rows = x.values.map((_, i) => i).filter((i) => !by || by.values[i] === name);
      const shown = rows.map((i) => columns.filter((c) => !c.numeric).map((c) => c.values[i]).join(", "));
      return { mode: "markers", name: String(name), x: rows.map((i) => x.values[i]), y: rows.map((i) => y.values[i]),
        text: shown, marker: { size: 9, color: paints[g % paints.length], symbol: marks[g % marks.length] },
        hovertemplate: "%{text}<br>%{x:.4g}, %{y:.4g}<extra></extra>" };
    });
    const log = (name) => (pick(`log${name}`).checked ? { type: "log", exponentformat: "power" } : { type: "-" });
    const more = { x: x.name, y: y.name, xaxis: log("x"), yaxis: log("y") };
    Plotly.react(`explorer-${k}`, traces, { ...layout(more), showlegend: !!by && groups.length > 1 }, config);
  };

  for (const head of document.querySelectorAll("th.sortable")) {
    head.onclick = () => {
      const body = head.closest("table").tBodies[0], column = head.cellIndex, up = head.dataset.up !== "yes";
      const key = (row) => {
        const text = row.cells[column].textContent, number = parseFloat(text.replace("−", "-"));
        return Number.isNaN(number) ? text : number;
      };
      const rows = [...body.rows].sort((a, b) => {
        const [p, q] = [key(a), key(b)];
        return (typeof p === typeof q ? (p > q) - (p < q) : typeof p === "number" ? -1 : 1) * (up ? 1 : -1);
      });
      head.dataset.up = up ? "yes" : "no";
      body.append(...rows);
    };
  }

  const redraw = () => {
    if (data.parts) drawAll();
    (data.tables || []).forEach((_, k) => drawExplorer(k));
  };
  const wish = window.matchMedia("(prefers-color-scheme: dark)");
  const theme = (dark) => { root.dataset.theme = dark ? "dark" : "light"; };
  theme(wish.matches);
  wish.addEventListener("change", () => { theme(wish.matches); redraw(); });
  $("theme").onclick = () => { theme(root.dataset.theme !== "dark"); redraw(); };

  if (data.parts) {
    $("quantity").onchange = (event) => { state.quantity = Number(event.target.value); drawAll(); };
    if ($("part")) {
      fill($("part"), data.parts.map(({ name }) => name), 0);
      $("part").onchange = (event) => { state.part = Number(event.target.value); startPart(); };
    }
    startPart();
    listen("points", "plotly_hover", (hit) => showPoint(hit.pointNumber));
    listen("points", "plotly_click", (hit) => showPoint(hit.pointNumber));
    listen("bars", "plotly_hover", (hit) => showPoint(hit.customdata));
  }
  (data.tables || []).forEach(({ columns }, k) => {
    for (const name of ["x", "y", "by", "logx", "logy"]) $(`${name}-${k}`).onchange = () => drawExplorer(k);
    drawExplorer(k);
  });
  root.dataset.ready = "yes";
})();
