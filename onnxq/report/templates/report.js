"use strict";
(() => {
  document.documentElement.classList.add("js");
  const find = (selector) => document.querySelector(selector);
  const all = (selector, inside) => [...(inside || document).querySelectorAll(selector)];
  const made = (tag, text, attributes) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    return element;
  };

  // tables: a click on a heading sorts, a field filters
  const number = (text) => {
    const match = text.replace(/,/g, "").match(/^[^\d-]*(-?\d+(\.\d+)?(e[+-]?\d+)?)\s*(B|kB|MB|GB)?/i);
    return match ? parseFloat(match[1]) * ({ kB: 1e3, MB: 1e6, GB: 1e9 }[match[4]] || 1) : NaN;
  };
  const compare = (a, b) => {
    const x = number(a), y = number(b);
    if (!isNaN(x) && !isNaN(y)) return x - y;
    if (isNaN(x) !== isNaN(y)) return isNaN(x) ? -1 : 1;
    return a.localeCompare(b);
  };
  for (const table of all("table.sortable")) {
    const [head, ...rows] = all("tr", table);
    if (rows.length < 2 || !head.querySelector("th")) continue;
    all("th", head).forEach((heading) => {
      const column = [...head.children].indexOf(heading);
      const button = made("button", undefined, { type: "button" });
      const term = heading.querySelector("a");
      button.textContent = heading.textContent;
      if (!heading.textContent.trim()) return;
      if (term) button.title = term.title;
      heading.replaceChildren(button);
      const words = heading.classList.contains("left");
      button.addEventListener("click", () => {
        const before = heading.getAttribute("aria-sort");
        const down = before ? before === "ascending" : !words;
        all("th", head).forEach((each) => each.removeAttribute("aria-sort"));
        heading.setAttribute("aria-sort", down ? "descending" : "ascending");
        const text = (row) => (row.children[column] ? row.children[column].textContent : "");
        const order = words ? (a, b) => text(a).localeCompare(text(b)) : (a, b) => compare(text(a), text(b));
        rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
        rows[0].parentNode.append(...rows);
      });
    });
    if (table.dataset.filter) {
      const field = made("input", undefined, {
        type: "search", class: "filter", placeholder: "filter: " + table.dataset.filter, "aria-label": "filter the table",
      });
      const count = made("output", "", { class: "soft" });
      const tools = made("div", undefined, { class: "tools" });
      tools.append(field, count);
      table.parentNode.before(tools);
      field.addEventListener("input", () => {
        const wanted = field.value.toLowerCase();
        let shown = 0;
        for (const row of rows) {
          row.hidden = !row.textContent.toLowerCase().includes(wanted);
          shown += row.hidden ? 0 : 1;
        }
        count.textContent = wanted ? shown + " of " + rows.length : "";
      });
    }
  }

  // the files tried: a slider from the slowest to the fastest
  const slide = find("#slide");
  if (slide) {
    const dots = all("circle[data-point]").sort((a, b) => b.getAttribute("cx") - a.getAttribute("cx"));
    const show = () => {
      const dot = dots[Number(slide.value)];
      for (const each of dots) each.classList.toggle("on", each === dot);
      for (const row of all("#tried tr")) row.classList.toggle("hit", row.dataset.point === dot.dataset.point);
      find("#slid").textContent = dot.querySelector("title").textContent;
    };
    slide.addEventListener("input", show);
    slide.value = String(Math.max(0, dots.findIndex((dot) => dot.classList.contains("kept"))));
    show();
  }

  // the graph: move, zoom, find, choose
  const source = find("#facts");
  if (!source) return;
  const facts = JSON.parse(source.textContent);
  const LEAST_LEGIBLE = 1.5;  // units of the drawing in a pixel of the screen: 11 units are then 7 pixels
  const [NAME, OP, MACS, PLANNED, REASON, SQNR, FLOAT_MS, INT8_MS, INPUTS, TENSOR, WEIGHT] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10];
  const followers = facts.nodes.map(() => []);
  facts.nodes.forEach((node, i) => node[INPUTS].forEach((j) => followers[j].push(i)));

  class View {
    constructor(svg) {
      this.svg = svg;
      this.whole = [Number(svg.dataset.width), Number(svg.dataset.height)];
      this.pointers = new Map();
      this.moved = 0;
      svg.setAttribute("preserveAspectRatio", "xMidYMid meet");
      svg.addEventListener("wheel", (event) => {
        event.preventDefault();
        this.zoom(Math.exp(-event.deltaY / 400), this.at(event));
      }, { passive: false });
      svg.addEventListener("pointerdown", (event) => {
        this.pointers.set(event.pointerId, event);
        this.moved = 0;
      });
      svg.addEventListener("pointermove", (event) => this.drag(event));
      for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
        svg.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
      }
      svg.addEventListener("keydown", (event) => this.key(event));
      this.start();
    }
    fit() { this.set(0, 0, ...this.whole); }
    // a small screen starts at the top left, where names can be read
    start() {
      this.fit();
      const area = this.svg.getBoundingClientRect();
      if (area.width && this.scale() > LEAST_LEGIBLE) this.set(0, 0, area.width * LEAST_LEGIBLE, area.height * LEAST_LEGIBLE);
    }
    set(x, y, width, height) {
      this.box = [x, y, width, height];
      this.svg.setAttribute("viewBox", this.box.map((each) => each.toFixed(1)).join(" "));
    }
    scale() {
      const area = this.svg.getBoundingClientRect();
      return Math.max(this.box[2] / (area.width || 1), this.box[3] / (area.height || 1));
    }
    at(event) {
      const area = this.svg.getBoundingClientRect(), scale = this.scale();
      return [
        this.box[0] + this.box[2] / 2 + (event.clientX - area.left - area.width / 2) * scale,
        this.box[1] + this.box[3] / 2 + (event.clientY - area.top - area.height / 2) * scale,
      ];
    }
    zoom(factor, at) {
      const [x, y, width, height] = this.box;
      const [px, py] = at || [x + width / 2, y + height / 2];
      const f = Math.min(Math.max(1 / factor, 40 / width), (4 * this.whole[0]) / width);
      this.set(px - (px - x) * f, py - (py - y) * f, width * f, height * f);
    }
    drag(event) {
      const last = this.pointers.get(event.pointerId);
      if (!last) return;
      const others = [...this.pointers.values()].filter((each) => each.pointerId !== event.pointerId);
      const dx = event.clientX - last.clientX, dy = event.clientY - last.clientY;
      this.moved += Math.abs(dx) + Math.abs(dy);
      if (others.length) {
        const far = (each) => Math.hypot(each.clientX - others[0].clientX, each.clientY - others[0].clientY);
        this.zoom(far(event) / Math.max(1, far(last)), this.at(others[0]));
      } else {
        const scale = this.scale();
        this.set(this.box[0] - dx * scale, this.box[1] - dy * scale, this.box[2], this.box[3]);
      }
      this.pointers.set(event.pointerId, event);
    }
    key(event) {
      const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (step) this.set(this.box[0] + (step[0] * this.box[2]) / 8, this.box[1] + (step[1] * this.box[3]) / 8, this.box[2], this.box[3]);
      else if (event.key === "+" || event.key === "=") this.zoom(1.5);
      else if (event.key === "-") this.zoom(1 / 1.5);
      else if (event.key === "0") this.fit();
      else return;
      event.preventDefault();
    }
    place(element) {
      const match = element.getAttribute("transform").match(/translate\(([-\d.]+) ([-\d.]+)\)/);
      const rect = element.querySelector("rect");
      return [Number(match[1]), Number(match[2]), Number(rect.getAttribute("width")), Number(rect.getAttribute("height"))];
    }
    show(elements, width) {
      const places = elements.map((each) => this.place(each));
      const low = [0, 1].map((i) => Math.min(...places.map((each) => each[i])));
      const high = [0, 1].map((i) => Math.max(...places.map((each) => each[i] + each[i + 2])));
      const wide = Math.max(width || 0, high[0] - low[0] + 60, (high[1] - low[1] + 60) * 1.9);
      this.set((low[0] + high[0] - wide) / 2, (low[1] + high[1] - wide / 1.9) / 2, wide, wide / 1.9);
    }
  }

  const nodeView = new View(find("svg.graph.nodes"));
  const blockGraph = find("svg.graph.blocks");
  const blockView = blockGraph ? new View(blockGraph) : null;
  find("#as-nodes").addEventListener("change", () => nodeView.start(), { once: true });
  const current = () => (blockView && find("#as-blocks").checked ? blockView : nodeView);
  const element = (i) => document.getElementById("n" + i);
  const toNodes = () => { if (blockView) find("#as-nodes").checked = true; };
  for (const button of all("button[data-zoom]")) {
    button.addEventListener("click", () => {
      const factor = Number(button.dataset.zoom);
      if (factor) current().zoom(factor); else current().fit();
    });
  }

  const decibels = (value) => (value === null ? "not measured" : value.toFixed(1) + " dB");
  const time = (value) => (value === null ? "part of another kernel, or none" : value.toPrecision(3) + " ms");
  const bytes = (count) => {
    const power = Math.min(Math.floor(Math.log10(count || 1) / 3), 3);
    return (count / 1000 ** power).toFixed(power ? 1 : 0) + " " + ["B", "kB", "MB", "GB"][power];
  };
  const facet = (list, name, ...values) => {
    const content = made("dd");
    content.append(...values);
    list.append(made("dt", name), content);
  };
  const link = (i) => {
    const anchor = made("a", facts.nodes[i][NAME] || facts.nodes[i][OP], { href: "#n" + i });
    return anchor;
  };
  const links = (numbers) => numbers.flatMap((i, k) => (k ? [", ", link(i)] : [link(i)]));
  const histogram = (row) => {
    const [name, minimum, maximum, low, high, clipped, counts] = row;
    const figure = made("div");
    const most = Math.log1p(Math.max(...counts)) || 1, span = maximum - minimum || 1;
    const share = (value) => Math.min(Math.max((value - minimum) / span, 0), 1);
    const bars = counts.map((count, i) => {
      const h = (90 * Math.log1p(count)) / most;
      return count ? "M" + ((460 * i) / counts.length).toFixed(1) + " 90v" + (-h).toFixed(1) + "h" + (460 / counts.length).toFixed(1) + "V90z" : "";
    }).join("");
    const left = 460 * share(low), right = 460 * share(high);
    figure.innerHTML =
      '<svg viewBox="0 0 460 90" role="img" aria-label="histogram"><rect class="range" x="' + left.toFixed(1) + '" width="' + (right - left).toFixed(1) +
      '" height="90"/><path class="counts" d="' + bars + '"/></svg><div class="ends"><span></span><span></span></div><small></small>';
    const [start, end] = all(".ends span", figure);
    start.textContent = minimum.toPrecision(3);
    end.textContent = maximum.toPrecision(3);
    figure.querySelector("small").textContent = "values of " + name + ", number on a logarithmic scale; shaded: clipping range " +
      low.toPrecision(3) + " to " + high.toPrecision(3) + ", " + (100 * clipped).toFixed(2) + " % clipped";
    return figure;
  };

  // the error of a node, or where that is part of another kernel, such as a Relu, of the node before it
  const errorOf = (i, steps) => {
    const node = facts.nodes[i];
    if (node[SQNR] !== null || node[INPUTS].length !== 1 || !steps) return node[SQNR];
    return errorOf(node[INPUTS][0], steps - 1);
  };
  const panel = find("#node");
  const choose = (i) => {
    const node = facts.nodes[i], list = made("dl");
    for (const each of all("svg.graph .n.on")) each.classList.remove("on");
    element(i).classList.add("on");
    const before = node[INPUTS].map((j) => errorOf(j, 4)).filter((each) => each !== null);
    const weight = node[WEIGHT], timed = facts.total > 0;
    const why = node[REASON] === null ? "not planned" : facts.reasons[node[REASON]];
    facet(list, "form", weight ? "float, its weight in " + weight[0] + " bits" : node[PLANNED] ? "integers" : "float: " + why);
    if (weight) facet(list, "weight", bytes(weight[1]) + ", in float " + bytes(weight[2]));
    if (node[INPUTS].length && !weight) facet(list, "error of inputs", before.length ? decibels(Math.min(...before)) : "not measured");
    facet(list, weight ? "error of this weight alone" : "error of output", decibels(node[SQNR]));
    if (timed) facet(list, "time in float", time(node[FLOAT_MS]));
    if (timed) facet(list, "time in the file", time(node[INT8_MS]) + (node[INT8_MS] !== null && facts.total ? ", " + ((100 * node[INT8_MS]) / facts.total).toFixed(1) + " % of all kernels" : ""));
    if (node[PLANNED] && node[FLOAT_MS] !== null && node[INT8_MS] !== null) {
      const change = node[FLOAT_MS] - node[INT8_MS];
      facet(list, "left in float", Math.abs(change).toPrecision(2) + " ms " + (change >= 0 ? "slower" : "faster") + "; its error would be gone, that of its inputs not");
    }
    if (node[MACS]) facet(list, "share of MACs", (100 * node[MACS]).toFixed(1) + " %");
    if (node[INPUTS].length) facet(list, "reads", ...links(node[INPUTS]));
    if (followers[i].length) facet(list, "read by", ...links(followers[i]));
    panel.replaceChildren(made("h3", node[NAME] + " (" + node[OP] + ")"), list);
    const tensors = [[node[TENSOR], "output"], ...node[INPUTS].map((j) => [facts.nodes[j][TENSOR], "input"])];
    for (const [tensor] of tensors.filter(([tensor]) => tensor !== null).slice(0, 3)) panel.append(histogram(facts.tensors[tensor]));
  };
  const chooseBlock = (b) => {
    const [first, last] = facts.blocks[b], numbers = [];
    for (let i = first; i <= last; i++) numbers.push(i);
    for (const each of all("svg.graph .n.on")) each.classList.remove("on");
    document.getElementById("b" + b).classList.add("on");
    const errors = numbers.map((i) => facts.nodes[i][SQNR]).filter((each) => each !== null);
    const sum = (key) => numbers.reduce((total, i) => total + (facts.nodes[i][key] || 0), 0);
    const list = made("dl");
    facet(list, "nodes", numbers.length + ", " + numbers.filter((i) => facts.nodes[i][PLANNED]).length + (numbers.some((i) => facts.nodes[i][WEIGHT]) ? " with a weight in few bits" : " on integers"));
    facet(list, "worst error", decibels(errors.length ? Math.min(...errors) : null));
    if (facts.total) facet(list, "time", sum(FLOAT_MS).toPrecision(3) + " ms in float, " + sum(INT8_MS).toPrecision(3) + " ms in the file");
    facet(list, "names", ...links(numbers));
    const button = made("button", "show its nodes", { type: "button" });
    button.addEventListener("click", () => open(b));
    const tools = made("div", undefined, { class: "tools" });
    tools.append(button);
    panel.replaceChildren(made("h3", document.getElementById("b" + b).querySelector("title").textContent), list, tools);
  };
  const open = (b) => {
    const [first, last] = facts.blocks[b], elements = [];
    for (let i = first; i <= last; i++) elements.push(element(i));
    toNodes();
    nodeView.show(elements, 500);
  };
  for (const view of [nodeView, blockView].filter(Boolean)) {
    const target = (event) => event.target.closest && event.target.closest(".n");
    view.svg.addEventListener("click", (event) => {
      const chosen = target(event);
      if (!chosen || view.moved > 6) return;
      const i = Number(chosen.id.slice(1));
      if (chosen.id[0] === "n") choose(i); else chooseBlock(i);
    });
    view.svg.addEventListener("dblclick", (event) => {
      const chosen = target(event);
      if (chosen && chosen.id[0] === "b") open(Number(chosen.id.slice(1)));
    });
  }
  const go = (i) => {
    toNodes();
    choose(i);
    nodeView.show([element(i)], 700);
  };
  document.addEventListener("click", (event) => {
    const anchor = event.target.closest && event.target.closest('a[href^="#n"]');
    if (!anchor || !/^#n\d+$/.test(anchor.getAttribute("href"))) return;
    event.preventDefault();
    go(Number(anchor.getAttribute("href").slice(2)));
    find(".graph-box").scrollIntoView({ block: "nearest" });
  });

  const field = find("#find");
  let hits = [], turn = -1;
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    hits = [];
    turn = -1;
    facts.nodes.forEach((node, i) => {
      const text = (node[NAME] + " " + node[OP] + " " + (node[REASON] === null ? "" : facts.reasons[node[REASON]])).toLowerCase();
      const hit = Boolean(wanted) && text.includes(wanted);
      if (hit) hits.push(i);
      element(i).classList.toggle("hit", hit);
      element(i).classList.toggle("dim", Boolean(wanted) && !hit);
    });
    facts.blocks.forEach(([first, last], b) => {
      const block = document.getElementById("b" + b);
      if (!block) return;
      const hit = hits.some((i) => i >= first && i <= last);
      block.classList.toggle("hit", hit);
      block.classList.toggle("dim", Boolean(wanted) && !hit);
    });
    find("#found").textContent = wanted ? hits.length + " found" + (hits.length ? "; Enter shows the next" : "") : "";
  });
  field.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !hits.length) return;
    turn = (turn + 1) % hits.length;
    go(hits[turn]);
    find("#found").textContent = turn + 1 + " of " + hits.length;
  });
})();
