// The detail view: the photograph with its layers, and why it has its score.
"use strict";

zsad.detail = (() => {
  const { element, byId, number, visible } = zsad;
  const LAYERS = [["heat", "Heatmap", "h"], ["outline", "Foreground", "o"], ["tiles", "Tiles", "t"], ["truth", "Ground truth", "g"]];
  const on = { heat: true, outline: true, tiles: true, truth: true };
  let opacity = 80;
  let gallery = null;
  let current = -1;
  let resized = null;

  const DECISIONS = {
    tp: "true positive", fp: "false positive", fn: "false negative", tn: "true negative", flagged: "flagged", passed: "passed",
  };
  const SOURCES = {
    "sam+dis": "the SAM annotations that lie in the salient region (DIS map)",
    dis: "the salient region (DIS map) alone: no SAM annotation was kept, or none was asked for",
    full_image: "the whole image: no foreground was found, or none was asked for",
    precomputed: "given beforehand",
  };

  function start(context) {
    gallery = context;
    const dialog = byId("detail");
    dialog.addEventListener("close", () => {
      const last = current;
      current = -1;
      if (location.hash.startsWith("#image-")) history.pushState(null, "", location.pathname + location.search);
      gallery.focus(last);
    });
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("keydown", keys);
    addEventListener("hashchange", followHash);
    addEventListener("resize", () => { if (resized) resized(); });
    followHash();
  }

  function followHash() {
    const match = /^#image-(\d+)$/.exec(location.hash);
    const wanted = match ? Number(match[1]) : -1;
    if (wanted >= 0 && wanted < gallery.facts.count) open(wanted);
    else if (byId("detail").open) byId("detail").close();
  }

  function go(step) {
    const order = gallery.order();
    const next = order[order.indexOf(current) + step];
    if (next !== undefined && order.includes(current)) {
      history.replaceState(null, "", `#image-${next}`);
      open(next);
    }
  }

  function keys(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input[type=range]")) return;
    if (event.key === "ArrowRight" || event.key === "ArrowDown") { go(1); event.preventDefault(); }
    if (event.key === "ArrowLeft" || event.key === "ArrowUp") { go(-1); event.preventDefault(); }
    const layer = LAYERS.find(([, , key]) => key === event.key);
    if (layer) setLayer(layer[0], !on[layer[0]]);
  }

  function setLayer(name, value) {
    on[name] = value;
    const box = byId(`layer-${name}`);
    if (box) box.checked = value;
    byId("detail").querySelector(".stage")?.classList.toggle(`hide-${name}`, !value);
  }

  async function open(i) {
    const dialog = byId("detail");
    current = i;
    if (!dialog.open) dialog.showModal();
    let item, facts;
    try {
      [item, facts] = await Promise.all([zsad.row(i, gallery.facts), zsad.details(i, gallery.facts)]);
    } catch (error) {
      dialog.replaceChildren(element("p", { class: "warning" }, `${error.message}. Build the report again.`));
      return;
    }
    if (current !== i) return;
    const failed = gallery.facts.failed(i);
    const focused = document.activeElement?.id;
    dialog.replaceChildren(head(i, item), element("div", { class: "body" }, figure(i, item, facts),
      element("div", { class: "why" }, ...(failed ? failure(facts) : reasons(i, facts)), ...record(i, item, facts))));
    resized?.();
    byId(focused)?.focus();
    if (!dialog.contains(document.activeElement)) byId("detail-close").focus();
  }

  function title(i, item) {
    const { classes, categories } = gallery.facts;
    return classes.length > 1 ? `${visible(classes[categories[i]])} · ${item.name}` : item.name;
  }

  function head(i, item) {
    const order = gallery.order();
    const at = order.indexOf(i);
    const button = (id, text, title, act, disabled) => {
      const node = element("button", { type: "button", id, "aria-label": title, title, disabled }, text);
      node.addEventListener("click", act);
      return node;
    };
    return element("div", { class: "head" },
      element("h2", { id: "detail-title", title: visible(item.id) }, element("bdi", {}, title(i, item))),
      element("span", { class: "position" }, at < 0 ? "" : `${(at + 1).toLocaleString("en")} / ${order.length.toLocaleString("en")}`),
      button("detail-previous", "‹", "Previous image", () => go(-1), at <= 0),
      button("detail-next", "›", "Next image", () => go(1), at < 0 || at === order.length - 1),
      button("detail-close", "×", "Close", () => byId("detail").close()));
  }

  function figure(i, item, facts) {
    const width = facts.width || 4, height = facts.height || 3;
    const large = gallery.facts.isLarge(i);
    const stage = element("div", { class: "stage" });
    stage.style.aspectRatio = `${width} / ${height}`;
    stage.style.setProperty("--ratio", width / height);
    stage.style.setProperty("--opacity", opacity / 100);
    if (gallery.facts.hasPhoto(i)) stage.append(element("img", { class: "photo", src: zsad.picture(item.key, "photo", large), alt: `Photograph ${visible(item.id)}` }));
    else stage.append(element("span", { class: "missing" }, "no photograph"));
    if (gallery.facts.hasHeat(i)) stage.append(element("img", { class: "heat", src: zsad.picture(item.key, "heat", large), alt: "" }));
    const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
    svg.append(element("path", { class: "outline casing", d: facts.outline }), element("path", { class: "outline", d: facts.outline }));
    const tiles = tileBoxes(facts);
    svg.append(...tiles.map(({ box }) => box));
    svg.append(element("path", { class: "truth casing", d: facts.truth }), element("path", { class: "truth", d: facts.truth }));
    stage.append(svg);
    for (const [name] of LAYERS) stage.classList.toggle(`hide-${name}`, !on[name]);
    resized = () => {
      const unit = width / Math.max(1, stage.clientWidth);
      const placed = [];
      // The highest scores are last, so that they are drawn on top; they choose their place first.
      for (const { label, x, y, bottom } of tiles.slice().reverse()) {
        const left = x + 5 * unit;
        let base = Math.min(y + 15 * unit, bottom);
        while (placed.some((other) => Math.abs(other.left - left) < 42 * unit && Math.abs(other.base - base) < 14 * unit)) base += unit;
        if (base > height) base = Math.min(y + 15 * unit, bottom);
        if (label.textContent) placed.push({ left, base });
        label.setAttribute("font-size", 12 * unit);
        label.setAttribute("stroke-width", 3 * unit);
        label.setAttribute("x", left);
        label.setAttribute("y", base);
      }
    };
    const note = large || !gallery.facts.hasPhoto(i) ? null : element("p", { class: "note" }, "A small picture: large ones are kept for the highest scores and the wrong decisions of each class.");
    return element("figure", {}, stage, controls(i, facts, stage), note);
  }

  /** Boxes of all tiles; the scores of the five highest stand in them, those of the others in the list. */
  function tileBoxes(facts) {
    const ranked = facts.tiles.map((tile, at) => ({ tile, at })).sort((a, b) => b.tile[5] - a.tile[5]);
    return ranked.map(({ tile: [x0, y0, x1, y1, , score], at }, place) => {
      const x = Math.max(0, x0), y = Math.max(0, y0);
      const bottom = Math.min(facts.height, y1);
      const label = element("text", {}, place < 5 ? number(score, 3) : "");
      const box = element("g", { class: `tile${place === 0 ? " first" : ""}`, "data-tile": at },
        element("rect", { x, y, width: Math.max(1, Math.min(facts.width, x1) - x), height: Math.max(1, bottom - y), class: "casing" }),
        element("rect", { x, y, width: Math.max(1, Math.min(facts.width, x1) - x), height: Math.max(1, bottom - y) }), label);
      return { box, label, x, y, bottom };
    }).reverse();
  }

  function controls(i, facts, stage) {
    const there = { heat: gallery.facts.hasHeat(i), outline: facts.outline !== "", tiles: facts.tiles.length > 0, truth: facts.truth !== "" };
    const boxes = LAYERS.filter(([name]) => there[name]).map(([name, title, key]) => {
      const box = element("input", { type: "checkbox", id: `layer-${name}`, checked: on[name] });
      box.addEventListener("change", () => setLayer(name, box.checked));
      return element("label", { class: `check swatch-${name}` }, box, ` ${title} `, element("kbd", {}, key));
    });
    if (there.heat) {
      const slider = element("input", { type: "range", id: "opacity", min: 10, max: 100, step: 5, value: opacity, "aria-label": "Opacity of the heatmap" });
      slider.addEventListener("input", () => {
        opacity = Number(slider.value);
        stage.style.setProperty("--opacity", opacity / 100);
      });
      const [low, high] = gallery.facts.scale;
      boxes.splice(1, 0, slider);
      boxes.push(element("div", { class: "scale", title: "One scale for all heatmaps" },
        element("svg", { viewBox: "0 0 240 12", preserveAspectRatio: "none", "aria-hidden": "true" }, element("rect", { width: 240, height: 12, rx: 3, fill: "url(#heat)" })),
        element("span", { class: "ends" }, element("span", {}, low.toPrecision(2)), element("span", {}, high.toPrecision(2)))));
    }
    return element("div", { class: "layers" }, ...boxes);
  }

  function failure(facts) {
    return [element("h3", {}, "Not scored"),
      element("p", { class: "warning" }, `${visible(facts.stage || "-")}: ${visible(facts.type || "-")}`),
      element("p", {}, visible(facts.message || "No reason was recorded."))];
  }

  function reasons(i, facts) {
    const { scores, label, range } = gallery.facts;
    const what = gallery.decision(i);
    const truth = ["labelled normal", "labelled anomalous", "no label"][label(i)];
    const bar = element("div", { class: "meter", "aria-hidden": "true" }, element("span"), element("i"));
    const place = (value) => `${(100 * Math.max(0, Math.min(1, (value - range[0]) / Math.max(range[1] - range[0], 1e-9)))).toFixed(1)}%`;
    bar.firstChild.style.width = place(scores[i]);
    bar.lastChild.style.left = place(gallery.threshold());
    return [
      element("p", { class: "score" }, element("strong", {}, number(scores[i])), element("span", { class: `chip ${what}` }, DECISIONS[what]), element("span", { class: "chip" }, truth)),
      bar,
      element("p", { class: "note" }, `Threshold ${number(gallery.threshold())}; the bar runs from the lowest to the highest score of the run.`),
      element("h3", {}, "Why this score"),
      element("ol", { class: "reasons" }, ...explain(i, facts).map((text) => element("li", {}, text))),
      ...components(facts),
    ];
  }

  function explain(i, facts) {
    const { components, tiles, source, fraction, peak, max, mean, noun } = facts;
    const share = gallery.facts.topFraction;
    const texts = [`Foreground: ${SOURCES[source] || visible(source || "unknown")}, ${(100 * fraction).toFixed(0)} % of the image, ${components.length} component${components.length === 1 ? "" : "s"}, ${tiles.length} tile${tiles.length === 1 ? "" : "s"}.`];
    texts.push(`Each tile is compared with descriptions of a flawless and of a damaged “${visible(noun || "object")}”; its score is the share of the damaged side, 0.5 is undecided.`);
    if (tiles.length) {
      const best = tiles.reduce((found, tile) => (tile[5] > found[5] ? tile : found));
      texts.push(`The most anomalous tile has ${number(best[5])}, in component ${best[4]}.`);
    }
    if (components.length > 1 && share !== null && share !== undefined) {
      const k = Math.max(1, Math.ceil(share * components.length - 1e-9));
      const best = [...components].sort((a, b) => b - a).slice(0, k);
      const rule = k === 1 ? `the highest of ${components.length} components` : `the mean of the ${k} highest of ${components.length} components (the top ${(100 * share).toFixed(0)} %)`;
      texts.push(`A component's score is the mean of its tiles. The image's score is ${rule}: ${best.slice(0, 6).map((value) => number(value)).join(", ")}${k > 6 ? ", …" : ""}.`);
    } else if (components.length === 1) {
      texts.push("There is one component, so the image's score is the mean of its tiles.");
    }
    if (peak) {
      const [low, high] = gallery.facts.scale;
      const level = max >= high ? "at the bright end of the scale" : max <= low ? "at the dark end of the scale" : `${(100 * (max - low) / (high - low)).toFixed(0)} % up the scale`;
      texts.push(`The heatmap is highest at x ${peak[0]}, y ${peak[1]} with ${number(max)} (${level}); its mean is ${number(mean)}.`);
    }
    return texts;
  }

  function components(facts) {
    if (!facts.tiles.length) return [];
    const rows = facts.components.map((score, component) => ({ score, component })).sort((a, b) => b.score - a.score);
    const list = rows.map(({ score, component }) => {
      const own = facts.tiles.map((tile, at) => ({ tile, at })).filter(({ tile }) => tile[4] === component);
      const chips = own.map(({ tile, at }) => {
        const chip = element("button", { type: "button", class: "tile-chip", title: `x ${tile[0]} to ${tile[2]}, y ${tile[1]} to ${tile[3]}` }, number(tile[5], 3));
        const mark = (value) => byId("detail").querySelector(`[data-tile="${at}"]`)?.classList.toggle("marked", value);
        for (const [event, value] of [["focus", true], ["blur", false], ["mouseenter", true], ["mouseleave", false]]) chip.addEventListener(event, () => mark(value));
        return chip;
      });
      return element("tr", {}, element("th", { scope: "row" }, `${component}`), element("td", {}, number(score)), element("td", { class: "text" }, element("div", { class: "chips" }, ...chips)));
    });
    return [element("h3", {}, "Components and their tiles"), element("div", { class: "scroll" }, element("table", { class: "figures" },
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "component"), element("th", { scope: "col" }, "score"), element("th", { scope: "col", class: "text" }, "tiles"))),
      element("tbody", {}, ...list)))];
  }

  function record(i, item, facts) {
    const { categories, classes } = gallery.facts;
    const named = [
      ["Id", item.id], ["File", facts.path], ["Class", classes[categories[i]]], ["Noun", facts.noun], ["Split", facts.split],
      ["Size", facts.width ? `${facts.width} × ${facts.height}` : null],
      ["Remark", gallery.facts.failed(i) ? null : facts.message],
      ["Time", Object.entries(facts.milliseconds).map(([stage, ms]) => `${stage} ${ms} ms`).join(", ") || null],
    ].filter(([, value]) => value !== null && value !== "");
    return [element("h3", {}, "Record"),
      element("dl", { class: "facts" }, ...named.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, element("bdi", {}, visible(value)))))),
      ...facts.problems.map((text) => element("p", { class: "warning" }, visible(text)))];
  }

  return { start };
})();
