
"use strict";
/* Puts the answers of a recording, which stand in the page as JSON, into it: as text and attributes, never as markup. */
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const KNOWN = ["ACCEPT", "DROP", "REJECT", "DISCARDED"];

  const append = (node, children) => {
    for (const child of children.flat(3)) {
      if (child === null || child === undefined || child === "") continue;
      node.append(child instanceof Node ? child : document.createTextNode(String(child)));
    }
    return node;
  };
  const assign = (node, attributes) => {
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name === "click") node.addEventListener("click", value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    return node;
  };
  const el = (tag, attributes, ...children) => append(assign(document.createElement(tag), attributes), children);
  const svg = (tag, attributes, ...children) =>
    append(assign(document.createElementNS(SVG, tag), attributes), children);
  const into = (section, ...children) => append(document.querySelector(`#${section} > div`), children);
  const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const number = (count) => count.toLocaleString("en");
  const kindOf = (verdict) => (KNOWN.includes(verdict) ? verdict : "OTHER");
  const verdictOf = (verdict) => el("span", { class: `verdict ${kindOf(verdict)}` }, verdict);
  const cut = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}\u2026` : text);
  const head = (...names) =>
    el("thead", {}, el("tr", {}, names.map(([name, kind]) => el("th", { scope: "col", class: kind }, name))));
  const plain = (text, click, more) => el("button", { type: "button", class: "plain", click, ...more }, text);

  const pathOf = new Map(data.paths.map((one) => [one.number, one]));
  const packetOf = new Map(data.packets.map((one) => [one.number, one]));

  /* What was recorded */
  const facts = (rows) =>
    el("dl", { class: "facts" }, rows.map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  const FIRST = ["complete", "nothing", "likely", "unread", "events", "packets", "selected", "verdicts", "protocols",
    "in > out", "filter", "started", "stopped", "kernel", "drop reason", "not seen", "not traced", "lost"];

  const recorded = () => {
    const told = new Map(data.facts);
    const lead = [`${many(data.all.packets, "packet")} on ${many(data.all.paths, "path")}; complete: ${told.get("complete")}`];
    append(document.getElementById("lead"), lead);
    if (data.selected) {
      into("recorded", el("p", { class: "notice" }, "Only the packets of this selection are told of: ",
        el("code", {}, data.selected)));
    }
    into("recorded", facts(data.facts.filter(([name]) => FIRST.includes(name))));
    const rest = data.facts.filter(([name]) => !FIRST.includes(name));
    into("recorded", el("details", {}, el("summary", {}, "All that is known of the recording"), facts(rest)));
    const left = data.left_out;
    const missing = [
      left.packets && `${many(left.packets, "packet")} (of each path the first ones are shown)`,
      left.paths && `${many(left.paths, "path")} with the fewest packets`,
      left.rules && many(left.rules, "rule"),
      left.chains && many(left.chains, "chain"),
    ].filter(Boolean);
    into("recorded", el("p", { class: "note", id: "left" }, missing.length
      ? `All counts are of the whole recording. To stay small this page does not list ${missing.join(", ")};`
        + " iptrec show, paths and rules have them."
      : "Nothing was left out: all paths, packets and rules are on this page."));
  };

  /* Verdicts over time */
  const times = () => {
    const { first_ns: first, length_ns: length, bars } = data.times;
    if (!bars.length) {
      into("times", el("p", { class: "note" }, "There are no packets."));
      return;
    }
    const slots = bars[bars.length - 1][0] + 1;
    const totals = bars.map(([, , counts]) => Object.values(counts).reduce((sum, one) => sum + one, 0));
    const most = Math.max(...totals);
    const width = 1000, height = 150, left = 52, top = 12;
    const step = Math.min((width - left - 8) / slots, 60);
    const drawn = svg("svg", { viewBox: `0 0 ${width} ${height + top + 26}`, role: "img",
      "aria-label": `Packets over time by verdict, at most ${number(most)} in one interval; the table below has the numbers` });
    drawn.append(
      svg("line", { class: "axis", x1: left, x2: width, y1: top, y2: top }),
      svg("line", { class: "axis", x1: left, x2: width, y1: top + height, y2: top + height }),
      svg("text", { x: left - 8, y: top + 4, "text-anchor": "end", class: "small" }, number(most)),
      svg("text", { x: left - 8, y: top + height + 4, "text-anchor": "end", class: "small" }, "0"),
    );
    for (const loss of data.losses.filter((one) => one.first_ns !== undefined)) {
      const place = (time) => Math.max(0, Math.min(slots, (time - first) / length)) * step + left;
      const from = place(loss.first_ns);
      drawn.append(svg("rect", { class: "hole", x: from, y: top, height, width: Math.max(3, place(loss.last_ns) - from) },
        svg("title", {}, loss.text)));
    }
    bars.forEach(([slot, time, counts], at) => {
      let bottom = top + height;
      const group = svg("g", {}, svg("title", {}, `${time}: ${Object.entries(counts).map((one) => `${one[1]} ${one[0]}`).join(", ")}`));
      for (const verdict of Object.keys(counts).sort()) {
        const tall = Math.max((counts[verdict] / most) * height, 1.5);
        bottom -= tall;
        group.append(svg("rect", { class: `bar ${kindOf(verdict)}`, x: left + slot * step + 0.5, y: bottom,
          width: Math.max(step - 1, 1), height: tall }));
      }
      drawn.append(group);
      if (at === 0 || (at === bars.length - 1 && slot * step > 330)) {
        const last = at > 0;
        drawn.append(svg("text", { class: "small", y: top + height + 18, "text-anchor": last ? "end" : "start",
          x: left + (slot + (last ? 1 : 0)) * step }, time));
      }
    });
    const shown = length >= 1e9 ? `${length / 1e9} s` : `${length / 1e6} ms`;
    into("times", drawn,
      el("ul", { class: "legend" }, Object.entries(data.verdicts).map(([verdict, count]) =>
        el("li", {}, verdictOf(verdict), ` ${number(count)}`))),
      el("p", { class: "note" }, `A bar is ${shown}.`,
        data.losses.length ? " Where something is missing the background is red; see Losses and ambiguity." : ""),
      el("details", {}, el("summary", {}, "As a table"), el("div", { class: "scroll" }, el("table", {},
        head(["From"], ["Packets", "number"], ["Verdicts"]),
        el("tbody", {}, bars.map(([, time, counts], at) => el("tr", {}, el("td", {}, time),
          el("td", { class: "number" }, number(totals[at])),
          el("td", {}, Object.entries(counts).map((one) => `${number(one[1])} ${one[0]}`).join(", ")))))))));
  };

  /* The map. A lane is a copy of the well-known chart; boxes are hooks, rows in them base chains. */
  const ROW = 22, HEAD = 24, BOX = 212, WIDTH = 1100;
  const COLUMNS = { PREROUTING: 92, FORWARD: 424, POSTROUTING: 784, INPUT: 262, OUTPUT: 612 };
  const TOP = ["PREROUTING", "FORWARD", "POSTROUTING"], BELOW = ["INPUT", "OUTPUT"];
  const ENDS = { in: [0, 64, "interface"], out: [1030, 70, "interface"], here: [494, 98, "this host"] };
  const LANES = { ip: "", bridge: "bridge", other: "" };
  const ROUTES = [["in", "PREROUTING"], ["PREROUTING", "FORWARD"], ["PREROUTING", "INPUT"], ["FORWARD", "POSTROUTING"],
    ["INPUT", "here"], ["sent", "OUTPUT"], ["OUTPUT", "POSTROUTING"], ["POSTROUTING", "out"]];

  const layout = () => {
    const boxes = new Map();
    const add = (lane, hook) => boxes.set(`${lane}:${hook}`, { lane, hook, rows: [] });
    const lanes = [...new Set(data.map.stations.map((one) => one.lane))];
    if (!lanes.includes("ip")) lanes.push("ip");
    for (const lane of lanes) if (lane !== "other") [...TOP, ...BELOW].forEach((hook) => add(lane, hook));
    data.map.stations.forEach((one, at) => {
      const key = `${one.lane}:${one.hook}`;
      if (!boxes.has(key)) add(one.lane, one.hook);
      boxes.get(key).rows.push(at);
    });
    let y = 6;
    const bands = [];
    for (const lane of ["other", "bridge", "ip"].filter((one) => lanes.includes(one))) {
      const mine = [...boxes.values()].filter((one) => one.lane === lane);
      const tall = (some) => Math.max(...some.map((one) => HEAD + Math.max(one.rows.length, 1) * ROW + 8));
      const place = (some, x) => some.forEach((one, at) => Object.assign(one, { x: x(one, at), y,
        height: HEAD + Math.max(one.rows.length, 1) * ROW + 8 }));
      if (lane === "other") {
        place(mine, (one, at) => 92 + (at % 4) * (BOX + 24));
        y += tall(mine) + 40;
        continue;
      }
      if (LANES[lane]) { bands.push([LANES[lane], y + 12]); y += 20; }
      const upper = mine.filter((one) => TOP.includes(one.hook));
      const lower = mine.filter((one) => BELOW.includes(one.hook));
      place(upper, (one) => COLUMNS[one.hook]);
      y += tall(upper) + 62;
      place(lower, (one) => COLUMNS[one.hook]);
      y += tall(lower) + 30;
    }
    return { boxes, bands, height: y - 18 };
  };
  const placed = layout();

  /* A line between two places, and where its count stands. */
  const line = (lane, from, to) => {
    const box = (hook) => placed.boxes.get(`${lane}:${hook}`);
    const middle = 38;
    const side = (one) => (one ? one.y + middle : 0);
    switch (`${from} ${to}`) {
      case "in PREROUTING": { const b = box(to); return [`M64 ${side(b)}H${b.x}`, 78, side(b) - 7]; }
      case "PREROUTING FORWARD": { const a = box(from), b = box(to); return [`M${a.x + BOX} ${side(a)}H${b.x}`, b.x - 26, side(a) - 7]; }
      case "PREROUTING INPUT": { const a = box(from), b = box(to);
        return [`M${a.x + BOX} ${side(a)}H368V${b.y}`, 375, b.y - 12, "start"]; }
      case "FORWARD POSTROUTING": { const a = box(from), b = box(to); return [`M${a.x + BOX} ${side(a)}H${b.x}`, a.x + BOX + 30, side(a) - 7]; }
      case "INPUT here": { const a = box(from); return [`M${a.x + BOX} ${side(a)}H494`, 484, side(a) - 7]; }
      case "sent OUTPUT": { const b = box(to); return [`M592 ${side(b)}H${b.x}`, 602, side(b) - 7]; }
      case "OUTPUT POSTROUTING": { const a = box(from), b = box(to);
        return [`M718 ${a.y}V${side(b)}H${b.x}`, 711, a.y - 12, "end"]; }
      case "POSTROUTING out": { const a = box(from); return [`M${a.x + BOX} ${side(a)}H1030`, 1013, side(a) - 7]; }
      default: return null;
    }
  };
  /* The head at the end of a line, which goes to the right or down there. */
  const arrow = (path) => {
    const numbers = path.match(/[\d.]+/g).map(Number);
    const [x, y] = path.includes("V") && !/V.*H/.test(path) ? numbers.slice(-2)
      : [numbers[numbers.length - 1], numbers[numbers.length - 2]];
    return /V[^H]*$/.test(path) ? `M${x} ${y}l-4.5 -8h9z` : `M${x} ${y}l-8 -4.5v9z`;
  };
  const odd = (from, to) => {
    const a = placed.boxes.get(from), b = placed.boxes.get(to);
    if (!a || !b) return null;
    const x = a.x + BOX / 2, end = b.x + BOX / 2, down = b.y > a.y;
    const y = down ? a.y + a.height : a.y, last = down ? b.y : b.y + b.height;
    return [`M${x} ${y}L${end} ${last}`, (x + end) / 2 + 6, (y + last) / 2, "start"];
  };

  /* Draw all of it; `lit` (a path) lights up in it, one place after the other. */
  const draw = (label) => {
    const drawn = svg("svg", { viewBox: `0 0 ${WIDTH} ${placed.height}`, role: "img", "aria-label": label });
    const parts = { ways: new Map(), stations: [], boxes: new Map() };
    const busiest = Math.max(1, ...data.map.ways.map((one) => one[2]));
    const counts = new Map(data.map.ways.map(([from, to, packets]) => [`${from} ${to}`, packets]));
    const lines = svg("g");
    drawn.append(lines);
    const way = (key, geometry, packets, strange) => {
      const [path, x, y, anchor] = geometry;
      const node = svg("g", { class: `way${packets ? " used" : ""}${strange ? " odd" : ""}` },
        svg("path", { class: "line", d: path }), strange ? null : svg("path", { class: "head", d: arrow(path) }));
      if (packets) node.firstChild.style.strokeWidth = 1.5 + 3 * (Math.log1p(packets) / Math.log1p(busiest));
      lines.append(node);
      parts.ways.set(key, node);
      if (packets) drawn.append(svg("text", { x, y, class: "small", "text-anchor": anchor || "middle" }, number(packets)));
    };
    for (const lane of new Set([...placed.boxes.values()].map((one) => one.lane))) {
      if (lane === "other") continue;
      for (const [from, to] of ROUTES) {
        const key = `${lane}:${from} ${lane}:${to}`;
        way(key, line(lane, from, to), counts.get(key) || 0, false);
        counts.delete(key);
      }
      const row = (hook) => placed.boxes.get(`${lane}:${hook}`).y + 38;
      for (const [end, [x, wide, text]] of Object.entries(ENDS)) {
        const y = row(end === "here" ? "INPUT" : "PREROUTING");
        drawn.append(svg("rect", { class: "end", x: x + 0.5, y: y - 15, width: wide - 1, height: 30, rx: 15 }),
          svg("text", { x: x + wide / 2, y: y + 4, "text-anchor": "middle", class: "small" }, text));
      }
      drawn.append(svg("text", { x: 362, y: row("PREROUTING") + 18, "text-anchor": "end", class: "small" }, "routing"));
    }
    for (const [key, packets] of counts) {
      const [, from, to] = key.match(/^(\S+:.*) ((?:ip|bridge|other):.*)$/) || [];
      const geometry = from && odd(from, to);
      if (geometry) way(key, geometry, packets, true);
    }
    for (const [text, y] of placed.bands) drawn.append(svg("text", { x: 0, y, class: "hook" }, text));
    for (const [key, box] of placed.boxes) {
      const frame = svg("rect", { class: "box", x: box.x, y: box.y, width: BOX, height: box.height, rx: 4 });
      parts.boxes.set(key, frame);
      drawn.append(frame, svg("text", { class: "hook", x: box.x + 10, y: box.y + 16 }, cut(box.hook, 24)));
      if (!box.rows.length) {
        drawn.append(svg("text", { class: "small", x: box.x + 10, y: box.y + HEAD + 14 }, "no chain here"));
      }
      box.rows.forEach((at, row) => {
        const one = data.map.stations[at];
        const y = box.y + HEAD + row * ROW;
        const name = one.chain === one.hook ? one.table : `${one.table} ${one.chain}`;
        const told = [one.packets ? number(one.packets) : ""];
        const group = svg("g", { class: `station${one.packets ? "" : " quiet"}` },
          svg("title", {}, `${one.table}/${one.chain} at ${one.hook}, priority ${one.priority ?? "not known"}: `
            + `${many(one.packets, "packet")}${one.lost ? `, ${number(one.lost)} did not get through` : ""}`),
          svg("rect", { x: box.x + 6, y, width: BOX - 12, height: ROW - 3, rx: 2 }),
          svg("text", { x: box.x + 12, y: y + 14 }, cut(name, one.lost ? 20 : 24)),
          svg("text", { x: box.x + BOX - (one.lost ? 12 + 18 + 8 * number(one.lost).length : 12), y: y + 14, "text-anchor": "end" }, told),
          one.lost ? svg("text", { x: box.x + BOX - 12, y: y + 14, "text-anchor": "end", class: "lost" }, `\u2715 ${number(one.lost)}`) : null);
        parts.stations[at] = group;
        drawn.append(group);
      });
    }
    return { drawn, parts };
  };
  const light = ({ drawn, parts }, path) => {
    for (const node of drawn.querySelectorAll(".lit")) node.classList.remove("lit", "last", "bad");
    if (!path) return;
    const steps = path.steps.map((one) => one.station).filter((one) => one !== null && data.map.stations[one]);
    const where = steps.map((one) => `${data.map.stations[one].lane}:${data.map.stations[one].hook}`);
    const order = [];
    const ends = { PREROUTING: "in", OUTPUT: "sent" }, ways = { POSTROUTING: "out", INPUT: "here" };
    const through = (from, to) => {
      const node = parts.ways.get(`${from} ${to}`);
      if (node) order.push(node);
    };
    steps.forEach((at, index) => {
      const [lane, hook] = where[index].split(":");
      if (index === 0 && ends[hook]) through(`${lane}:${ends[hook]}`, where[0]);
      if (index > 0 && where[index] !== where[index - 1]) through(where[index - 1], where[index]);
      order.push(parts.stations[at]);
    });
    if (steps.length && !path.lost && path.verdict !== "UNKNOWN") {
      const [lane, hook] = where[where.length - 1].split(":");
      if (ways[hook]) through(where[where.length - 1], `${lane}:${ways[hook]}`);
    }
    const decided = path.decider === null ? null : path.steps[path.decider].station;
    const last = decided === null ? null : parts.stations[decided];
    const each = [...new Set(order.filter((one) => one && one !== last)), ...(last ? [last] : [])];
    each.forEach((node, at) => {
      if (node.classList.contains("way")) node.parentNode.append(node); // above those that are not lit
      for (const one of [node, ...node.children]) one.style.transitionDelay = `${Math.min(at * 70, 1500)}ms`;
      node.classList.add("lit");
    });
    if (last) last.classList.add("last", ...(path.lost ? ["bad"] : []));
  };

  const says = (step) => step.text.toLowerCase().endsWith(` ${step.target.toLowerCase()}`) || step.text.toLowerCase() === step.target.toLowerCase();
  const stepsOf = (path, packet) => el("ol", { class: "steps" }, path.steps.map((step, at) => {
    const gap = path.gap && at === path.gap[0] ? el("li", {}, el("span"), el("span", { class: "note" },
      `${many(path.gap[1], "step")} left out`)) : "";
    const decided = at === path.decider;
    const text = step.type === "rule" || step.type === "match" || step.type === "unknown" ? `${step.what}  ${step.text}` : step.type;
    const changed = packet && packet.changed[at];
    return [gap, el("li", { class: decided ? "decided" : null },
      el("span", { class: `arrow${path.lost ? "" : " through"}` }, decided ? "-->" : ""),
      el("span", { class: "mono" }, `${step.table}/${step.chain}`),
      el("span", { class: "mono" }, text, step.target && !says(step) ? ` => ${step.target}` : "",
        decided ? el("span", { class: "note" }, "  (decided)") : "",
        changed ? el("span", { class: "changed" }, changed) : ""))];
  }));

  let main = null;
  const shown = el("div", { id: "way", "aria-live": "polite" });
  const chart = () => {
    main = draw(`Flow chart of hooks and base chains with the packets that passed them: ${data.map.stations
      .filter((one) => one.packets).map((one) => `${one.hook} ${one.table} ${one.packets}`).join(", ")}`);
    into("chart", el("p", { class: "note" }, "Numbers are packets; \u2715 are those that were dropped, rejected or discarded there."
      + " Choose a path or a packet below: its way lights up, the rule that decided last."),
      el("div", { class: "map" }, main.drawn), shown);
  };

  /* Paths */
  let chosen = null;
  const pathRows = new Map();
  const choose = (value, packet) => {
    chosen = value;
    for (const [one, row] of pathRows) {
      row.classList.toggle("chosen", one === value);
      row.querySelector("button").setAttribute("aria-pressed", String(one === value));
    }
    const path = pathOf.get(value);
    light(main, path);
    shown.replaceChildren();
    if (!path) return;
    append(shown, [el("h3", {}, packet ? `Packet ${packet.number}, on path ${path.number}: ` : `Path ${path.number}: `, path.how),
      stepsOf(path, packet), path.end ? el("p", {}, path.end) : ""]);
  };
  const flags = (path) => [path.complete ? "" : el("span", { class: "flag" }, "incomplete"),
    path.ambiguous ? el("span", { class: "flag" }, "ambiguous") : ""];
  const paths = () => {
    if (!data.paths.length) {
      into("paths", el("p", { class: "note" }, "There are none."));
      return;
    }
    const rows = data.paths.map((path) => {
      const decider = path.decider === null ? null : path.steps[path.decider];
      const press = () => choose(chosen === path.number ? null : path.number, null);
      const row = el("tr", { class: "choice", click: (event) => { if (!event.target.closest("button")) press(); } },
        el("td", { class: "short" }, plain(`path ${path.number}`, press, { "aria-pressed": "false" })),
        el("td", { class: "number" }, number(path.packets)),
        el("td", { class: "short" }, verdictOf(path.verdict), " ", flags(path)),
        el("td", {}, path.how.replace(`${path.verdict} `, ""), decider && decider.text ? [el("br"), el("code", {}, decider.text)] : ""),
        el("td", {}, path.flow, path.netns ? ` in ${path.netns}` : ""),
        el("td", {}, path.times));
      pathRows.set(path.number, row);
      return row;
    });
    into("paths", el("div", { class: "scroll" }, el("table", {},
      head(["Path"], ["Packets", "number"], ["Verdict"], ["Decided"], ["First packet"], [`When (${data.day})`]), el("tbody", {}, rows))));
    if (data.left_out.paths) {
      into("paths", el("p", { class: "note" }, `${many(data.left_out.paths, "more path")} with fewer packets: iptrec paths has them.`));
    }
  };

  /* Packets */
  const opened = (packet) => {
    const path = pathOf.get(packet.path);
    const drawn = draw(`The way of packet ${packet.number}: ${path.steps.map((one) => `${one.table} ${one.chain}`).join(", ")}`);
    requestAnimationFrame(() => requestAnimationFrame(() => light(drawn, path)));
    return el("div", {},
      el("p", {}, packet.decision),
      packet.notes.length ? el("p", { class: "note" }, packet.notes.join(" ")) : "",
      el("pre", {}, packet.header.join("\n")),
      el("h3", {}, "Its way"), el("div", { class: "map" }, drawn.drawn),
      el("h3", {}, "Steps"), stepsOf(path, packet), path.end ? el("p", {}, path.end) : "",
      el("h3", {}, "Why"), el("pre", { tabindex: "0" }, packet.why.map((one) => data.lines[one]).join("\n")));
  };
  const packetRows = new Map();
  const toggle = (packet) => {
    const row = packetRows.get(packet.number);
    const button = row.querySelector("button");
    const open = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!open));
    row.classList.toggle("chosen", !open);
    if (open) {
      row.nextElementSibling.remove();
    } else {
      row.after(el("tr", { class: "opened" }, el("td", { colspan: 7 }, opened(packet))));
    }
    choose(open ? null : packet.path, open ? null : packet);
  };
  const packets = () => {
    if (!data.packets.length) {
      into("packets", el("p", { class: "note" }, "There are none."));
      return;
    }
    const texts = new Map();
    const rows = data.packets.map((packet) => {
      const path = pathOf.get(packet.path);
      const row = el("tr", { class: "choice", click: (event) => { if (!event.target.closest("button")) toggle(packet); } },
        el("td", { class: "number" }, plain(`#${packet.number}`, () => toggle(packet), { "aria-expanded": "false" })),
        el("td", { class: "short" }, packet.time),
        el("td", { class: "short" }, verdictOf(packet.verdict), " ", flags(path)),
        el("td", {}, packet.flow),
        el("td", {}, [packet.in && `in ${packet.in}`, packet.out && `out ${packet.out}`].filter(Boolean).join(" ")),
        el("td", {}, packet.by || path.how.replace(`${path.verdict} `, "").replace(path.verdict, "")),
        el("td", { class: "short" }, `path ${packet.path}`));
      packetRows.set(packet.number, row);
      texts.set(packet, [row.textContent, packet.decision, ...packet.header,
        ...path.steps.map((one) => `${one.table}/${one.chain} ${one.text}`)].join("\n").toLowerCase());
      return row;
    });
    const holes = data.losses.filter((one) => one.first_ns !== undefined);
    for (const loss of holes.slice(0, 100)) {
      const next = data.packets.find((one) => one.time_ns >= loss.first_ns);
      const gap = el("tr", { class: "gap" }, el("td", { colspan: 7 }, `Lost about here: ${loss.text}`));
      if (next) rows.splice(rows.indexOf(packetRows.get(next.number)), 0, gap);
      else rows.push(gap);
    }
    const words = el("input", { type: "search", id: "words", autocomplete: "off", spellcheck: "false" });
    const verdict = el("select", { id: "verdict" }, el("option", { value: "" }, "all"),
      [...new Set(data.packets.map((one) => one.verdict))].sort().map((one) => el("option", {}, one)));
    const count = el("output", { id: "count", "aria-live": "polite" });
    const filter = () => {
      const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
      let found = 0;
      for (const packet of data.packets) {
        const fits = (!verdict.value || packet.verdict === verdict.value) && wanted.every((one) => texts.get(packet).includes(one));
        const row = packetRows.get(packet.number);
        row.hidden = !fits;
        if (row.nextElementSibling && row.nextElementSibling.classList.contains("opened")) row.nextElementSibling.hidden = !fits;
        found += fits;
      }
      count.textContent = `${number(found)} of ${many(data.packets.length, "packet")}`
        + (data.left_out.packets ? ` listed here, of ${number(data.all.packets)} recorded` : "");
    };
    words.addEventListener("input", filter);
    verdict.addEventListener("change", filter);
    into("packets", el("div", { class: "filter", role: "search" },
      el("label", { for: "words" }, "Address, port, chain, words of a rule", words),
      el("label", { for: "verdict" }, "Verdict", verdict), count),
      el("div", { class: "scroll" }, el("table", {},
        head(["Packet", "number"], ["Time"], ["Verdict"], ["What"], ["Interfaces"], ["Decided by"], ["Path"]),
        el("tbody", {}, rows))));
    filter();
  };

  /* Rules */
  const show = (wanted) => {
    const packet = packetOf.get(wanted);
    if (!packet) return `#${wanted}`;
    return plain(`#${wanted}`, () => {
      const button = packetRows.get(wanted).querySelector("button");
      if (button.getAttribute("aria-expanded") !== "true") toggle(packet);
      button.scrollIntoView({ block: "center" });
      button.focus();
    });
  };
  const rules = () => {
    const most = Math.max(1, ...data.chains.flatMap((one) => [one.end.packets, ...one.rules.map((rule) => rule.packets)]));
    const heat = (packets, text) => {
      const fill = el("span", { class: "fill" });
      const share = Math.log1p(packets) / Math.log1p(most);
      if (packets) Object.assign(fill.style, { width: `${Math.max(4, share * 100)}%`, opacity: 0.35 + 0.65 * share });
      return el("td", { class: "heat" }, fill, el("span", { class: "told" }, text));
    };
    if (!data.chains.length) into("rules", el("p", { class: "note" }, "No rules are known."));
    const bare = data.chains.filter((one) => !one.rules.length && !one.left_out && !one.unsure && !one.untraced);
    const named = (one) => `${one.table}/${one.chain}${one.table.startsWith(`${one.family} `) ? "" : ` (${one.family})`}`;
    const columns = () => el("colgroup", {}, ["c-number", "c-heat", "c-first", null].map((one) => el("col", { class: one })));
    for (const one of data.chains.filter((some) => !bare.includes(some))) {
      const rows = one.rules.map((rule) => {
        const state = rule.packets ? many(rule.packets, "packet")
          : rule.unreachable ? `unreachable: #${rule.unreachable} ends the chain` : one.untraced ? "not known" : "never hit";
        const kind = rule.packets ? "hit" : rule.unreachable ? "unreachable" : "unused";
        return el("tr", { class: kind },
          el("td", { class: "number" }, rule.number === null ? "gone" : `#${rule.number}`),
          heat(rule.packets, state),
          el("td", { class: "number" }, rule.packets ? show(rule.example) : ""),
          el("td", { class: "spec mono" }, rule.spec));
      });
      const end = one.policy ? `policy ${one.policy}` : "end of the chain";
      rows.push(el("tr", { class: one.end.packets ? "hit" : "unused" }, el("td", { class: "number" }, "end"),
        heat(one.end.packets, one.end.packets ? many(one.end.packets, "packet") : "never reached"),
        el("td", { class: "number" }, one.end.packets ? show(one.end.example) : ""), el("td", {}, end)));
      into("rules", el("h3", {}, named(one)),
        one.untraced ? el("p", { class: "notice" }, `Not all is known of it: ${one.untraced}.`) : "",
        el("div", { class: "scroll" }, el("table", { class: "rules" }, columns(), head(["Rule", "number"], ["Hit by"], ["First", "number"], ["Rule"]),
          el("tbody", {}, rows))),
        one.unsure ? el("p", { class: "note" }, `${many(one.unsure, "more hit")} while the rules changed: which rule is not known.`) : "",
        one.left_out ? el("p", { class: "note" }, `${many(one.left_out, "rule")} not listed here; iptrec rules has them.`) : "");
    }
    if (bare.length) {
      into("rules", el("h3", {}, "Chains without rules"), el("div", { class: "scroll" }, el("table", { class: "rules" }, columns(),
        head(["", "number"], ["Passed by"], ["First", "number"], ["Chain"]), el("tbody", {}, bare.map((one) =>
          el("tr", { class: one.end.packets ? "hit" : "unused" }, el("td"),
            heat(one.end.packets, one.end.packets ? many(one.end.packets, "packet") : "none"),
            el("td", { class: "number" }, one.end.packets ? show(one.end.example) : ""),
            el("td", {}, named(one), one.policy ? `, policy ${one.policy}` : "")))))));
    }
    into("rules", el("h3", {}, "What changed while it was recorded"));
    if (!data.changes.length) {
      into("rules", el("p", {}, data.chains.length ? "The rules in the end are those of the beginning." : "That is not known."));
      return;
    }
    const kinds = { "+": "plus", "-": "minus", "~": "tilde", "@": "at" };
    into("rules", el("pre", { tabindex: "0" }, data.changes.map((text) => el("span", { class: kinds[text[0]] }, `${text}\n`))));
  };

  /* Losses and ambiguity */
  const losses = () => {
    const complete = new Map(data.facts).get("complete");
    into("losses", el("p", {}, `Complete: ${complete}.`));
    if (!data.losses.length) into("losses", el("p", {}, "No event was lost, as far as that can be known."));
    else into("losses", el("h3", {}, "Lost"), el("ul", {}, data.losses.map((one) => el("li", {}, one.text))));
    if (data.untraced.length) {
      into("losses", el("h3", {}, "Chains that packets may pass untraced"), el("ul", {}, data.untraced.map((one) => el("li", {}, one))));
    }
    if (!data.doubts.length) {
      into("losses", el("p", {}, "Every packet was seen from its first rule to its end, and none is ambiguous."));
      return;
    }
    into("losses", el("h3", {}, "Packets that were not seen whole, or that may have fared otherwise"),
      el("div", { class: "scroll" }, el("table", {}, head(["Packets", "number"], ["First", "number"], ["Verdict"], ["Why"]),
        el("tbody", {}, data.doubts.map((one) => el("tr", {}, el("td", { class: "number" }, number(one.packets)),
          el("td", { class: "number" }, show(one.first)), el("td", { class: "short" }, verdictOf(one.verdict)),
          el("td", {}, one.ambiguous ? el("span", { class: "flag" }, "ambiguous") : el("span", { class: "flag" }, "incomplete"), ` ${one.why}`)))))));
  };

  for (const section of document.querySelectorAll("main > section")) {
    document.getElementById("contents").append(el("li", {}, el("a", { href: `#${section.id}` }, section.querySelector("h2").textContent)));
  }
  recorded();
  times();
  chart();
  paths();
  packets();
  rules();
  losses();
  if (data.paths.length) choose(data.paths[0].number, null);
  append(document.getElementById("made"), [`Made by iptrec ${data.iptrec} from ${data.name}. This page loads nothing and sends nothing.`]);
  document.documentElement.dataset.ready = "yes";
})();
