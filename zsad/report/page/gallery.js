// The gallery: threshold, filters, counts, pages of cards.
"use strict";

zsad.gallery = (() => {
  const PAGE = 48, BINS = 40, STEPS = 1000;
  const { element, byId, number } = zsad;
  const facts = zsad.index();
  const { scores, categories, label, failed } = facts;
  const select = (id) => byId(id).value;

  // The slider's right end lies above the highest score, so that it can flag nothing.
  const low = facts.range[0];
  const span = Math.max(facts.range[1] - low, 1e-6) * 1.002;
  let threshold = 0;
  let order = [];
  let page = 0;
  let shown = [];
  let pending = false;

  const flagged = (i) => scores[i] >= threshold;
  /** tp, fp, fn, tn; "flagged" or "passed" without a label; "" for a failed image. */
  function decision(i) {
    if (failed(i)) return "";
    if (label(i) === 2) return flagged(i) ? "flagged" : "passed";
    if (label(i) === 1) return flagged(i) ? "tp" : "fn";
    return flagged(i) ? "fp" : "tn";
  }
  const chosenClass = () => Number(select("filter-class"));
  const inClass = (i) => chosenClass() < 0 || categories[i] === chosenClass();

  function matches(i) {
    if (!inClass(i)) return false;
    if (select("filter-label") !== "all" && label(i) !== Number(select("filter-label"))) return false;
    if (select("filter-status") !== "all" && failed(i) !== (select("filter-status") === "error")) return false;
    const wanted = select("filter-decision");
    if (wanted === "all") return true;
    if (failed(i)) return false;
    if (wanted === "flagged" || wanted === "passed") return flagged(i) === (wanted === "flagged");
    return decision(i) === wanted;
  }

  function filter() {
    order = [];
    for (let i = 0; i < facts.count; i++) if (matches(i)) order.push(i);
    const how = select("sort");
    if (how === "low") order.sort((a, b) => failed(a) - failed(b) || b - a);
    if (how === "near") {
      const distance = (i) => failed(i) ? Infinity : Math.abs(scores[i] - threshold);
      order.sort((a, b) => (distance(a) === distance(b) ? a - b : distance(a) - distance(b)));
    }
    page = Math.min(page, Math.max(0, Math.ceil(order.length / PAGE) - 1));
  }

  function count() {
    const counts = { tp: 0, fp: 0, fn: 0, tn: 0, flagged: 0, passed: 0 };
    for (let i = 0; i < facts.count; i++) {
      const what = inClass(i) ? decision(i) : "";
      if (what) counts[what]++;
    }
    const { tp, fp, fn, tn } = counts;
    const labelled = tp + fp + fn + tn;
    byId("confusion").hidden = labelled === 0;
    for (const name of ["tp", "fp", "fn", "tn"]) byId(`count-${name}`).textContent = counts[name].toLocaleString("en");
    const share = (part, whole) => whole ? (100 * part / whole).toFixed(1) : "–";
    const all = labelled + counts.flagged + counts.passed;
    const flags = tp + fp + counts.flagged;
    byId("rates").textContent = labelled
      ? `Precision ${share(tp, tp + fp)}, recall ${share(tp, tp + fn)}, F1 ${share(2 * tp, 2 * tp + fp + fn)} %`
      : `${flags.toLocaleString("en")} of ${all.toLocaleString("en")} flagged`;
  }

  function drawHistogram() {
    const kinds = [0, 2, 1].map((kind) => ({ kind, bins: new Array(BINS).fill(0) }));
    for (let i = 0; i < facts.count; i++) {
      if (failed(i) || !inClass(i)) continue;
      const bin = Math.min(BINS - 1, Math.floor((scores[i] - low) / span * BINS));
      kinds.find(({ kind }) => kind === label(i)).bins[bin]++;
    }
    const top = Math.max(1, ...kinds[0].bins.map((_, bin) => kinds.reduce((sum, { bins }) => sum + bins[bin], 0)));
    const below = new Array(BINS).fill(0);
    const paths = kinds.map(({ kind, bins }) => {
      const path = bins.map((value, bin) => {
        if (!value) return "";
        const base = 72 - 68 * below[bin] / top;
        below[bin] += value;
        const height = 68 * value / top;
        return `M${7 * bin + 0.5} ${base.toFixed(1)}v${(-height).toFixed(1)}h6V${base.toFixed(1)}Z`;
      }).join("");
      return element("path", { class: `bars ${["normal", "anomalous", "unknown"][kind]}`, d: path });
    });
    byId("histogram").replaceChildren(...paths, element("path", { id: "histogram-line", class: "threshold" }));
    const names = kinds.filter(({ bins }) => bins.some(Boolean)).map(({ kind }) =>
      element("span", { class: `key ${["normal", "anomalous", "unknown"][kind]}` }, ["normal", "anomalous", "no label"][kind]));
    byId("histogram-legend").replaceChildren(...names);
  }

  function moveLine() {
    const x = Math.max(0, Math.min(280, (threshold - low) / span * 280)).toFixed(1);
    byId("histogram-line").setAttribute("d", `M${x} 0V72`);
  }

  const MARKS = { fp: "false positive", fn: "false negative", tp: "flagged", flagged: "flagged" };

  function card(item) {
    const i = item.number;
    const frame = element("div", { class: "frame" });
    if (facts.hasPhoto(i)) frame.append(element("img", { src: zsad.picture(item.key, "photo"), alt: "", loading: "lazy", class: "photo" }));
    if (facts.hasHeat(i)) frame.append(element("img", { src: zsad.picture(item.key, "heat"), alt: "", loading: "lazy", class: "heat" }));
    if (item.error || !facts.hasPhoto(i)) frame.append(element("span", { class: "missing" }, item.error ? "failed" : "no photograph"));
    const text = failed(i) ? zsad.visible(item.error) : number(scores[i]);
    return element("a", { class: "card", href: `#image-${i}`, "data-number": i, title: zsad.visible(item.id) },
      frame,
      element("span", { class: "line" }, element("strong", {}, text), element("span", { class: "mark" })),
      element("span", { class: "name" },
        label(i) === 2 ? null : element("span", { class: `dot ${label(i) === 1 ? "anomalous" : "normal"}`, role: "img", "aria-label": label(i) === 1 ? "labelled anomalous" : "labelled normal" }),
        facts.classes.length > 1 ? element("bdi", { class: "class" }, zsad.visible(facts.classes[categories[i]])) : null,
        element("bdi", {}, item.name)));
  }

  function markCards() {
    for (const node of byId("grid").querySelectorAll(".card")) {
      const what = decision(Number(node.dataset.number));
      const mark = node.querySelector(".mark");
      mark.textContent = MARKS[what] || "";
      mark.className = `mark ${what}`;
    }
  }

  async function render() {
    const wanted = order.slice(page * PAGE, (page + 1) * PAGE);
    const pages = Math.max(1, Math.ceil(order.length / PAGE));
    byId("found").textContent = `${order.length.toLocaleString("en")} of ${facts.count.toLocaleString("en")} images`;
    for (const suffix of ["", "-2"]) {
      byId(`page-number${suffix}`).textContent = `${page + 1} / ${pages}`;
      byId(`page-previous${suffix}`).disabled = page === 0;
      byId(`page-next${suffix}`).disabled = page >= pages - 1;
    }
    if (wanted.join() !== shown.join() || !wanted.length) {
      shown = wanted;
      let cards;
      try {
        cards = (await Promise.all(wanted.map((i) => zsad.row(i, facts)))).map((item) => element("li", {}, card(item)));
      } catch (error) {
        cards = [element("li", { class: "empty" }, `${error.message}. Build the report again.`)];
      }
      if (shown !== wanted) return;
      if (!cards.length) cards = [element("li", { class: "empty" }, "No image passes these filters.")];
      byId("grid").replaceChildren(...cards);
    }
    markCards();
  }

  function update() {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      moveLine();
      count();
      filter();
      render();
    });
  }

  /** As few digits as tell a score, which has 32 bits, from its neighbours: what is copied from the box decides alike. */
  function exact(value) {
    for (let digits = 6; digits < 9; digits++) {
      const short = Number(value.toPrecision(digits));
      if (Math.fround(short) === Math.fround(value)) return short;
    }
    return Number(value.toPrecision(9));
  }

  function setThreshold(value, fromSlider = false) {
    if (fromSlider) value = Number(value.toPrecision(6));
    threshold = value;
    if (!fromSlider) byId("threshold").value = Math.round((value - low) / span * STEPS);
    if (document.activeElement !== byId("threshold-value")) byId("threshold-value").value = exact(value);
    byId("threshold").setAttribute("aria-valuetext", number(value));
    update();
  }

  /** The highest threshold of largest F1, or without labels the score that one image in a hundred reaches. */
  function best() {
    const name = facts.classes[chosenClass()];
    const value = chosenClass() < 0 ? facts.overall : Object.hasOwn(facts.thresholds, name) ? facts.thresholds[name] : null;
    byId("threshold-best").hidden = value === null || value === undefined;
    if (value !== null && value !== undefined) return value;
    const own = [];
    for (let i = 0; i < facts.count; i++) if (!failed(i) && inClass(i)) own.push(scores[i]);
    return own.length ? own[Math.floor(own.length / 100)] : low;
  }

  function turn(step) {
    const pages = Math.ceil(order.length / PAGE);
    if (page + step < 0 || page + step >= pages) return Promise.resolve();
    page += step;
    byId("main").scrollIntoView({ block: "start" });
    return render();
  }

  async function moveFocus(event) {
    const cards = [...byId("grid").querySelectorAll(".card")];
    const at = cards.indexOf(document.activeElement);
    if (at < 0 || event.altKey || event.ctrlKey || event.metaKey) return;
    const columns = Math.max(1, cards.filter((node) => node.offsetTop === cards[0].offsetTop).length);
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns }[event.key];
    if (!step) return;
    event.preventDefault();
    if (cards[at + step]) { cards[at + step].focus(); return; }
    if (Math.abs(step) > 1) return;
    const before = page;
    await turn(step);
    const now = [...byId("grid").querySelectorAll(".card")];
    if (page !== before) (step > 0 ? now[0] : now[now.length - 1]).focus();
  }

  function showHeat(on) {
    byId("show-heat").checked = on;
    byId("grid").classList.toggle("with-heat", on);
  }

  function start() {
    const options = [element("option", { value: -1 }, facts.classes.length > 1 ? "all classes" : zsad.visible(facts.classes[0]))];
    if (facts.classes.length > 1) facts.classes.forEach((name, i) => options.push(element("option", { value: i }, zsad.visible(name))));
    byId("filter-class").replaceChildren(...options);
    byId("filter-class").addEventListener("change", () => { page = 0; drawHistogram(); setThreshold(best()); });
    for (const id of ["filter-decision", "filter-label", "filter-status", "sort"]) {
      byId(id).addEventListener("change", () => { page = 0; update(); });
    }
    byId("threshold").addEventListener("input", (event) => setThreshold(low + span * event.target.value / STEPS, true));
    byId("threshold-value").addEventListener("input", (event) => {
      if (event.target.value !== "" && Number.isFinite(event.target.valueAsNumber)) setThreshold(event.target.valueAsNumber);
    });
    byId("threshold-best").addEventListener("click", () => setThreshold(best()));
    byId("panel").addEventListener("submit", (event) => event.preventDefault());
    byId("show-heat").addEventListener("change", (event) => showHeat(event.target.checked));
    for (const suffix of ["", "-2"]) {
      byId(`page-previous${suffix}`).addEventListener("click", () => turn(-1));
      byId(`page-next${suffix}`).addEventListener("click", () => turn(1));
    }
    byId("grid").addEventListener("keydown", moveFocus);
    document.addEventListener("keydown", (event) => {
      if (event.target.matches("input:not([type=checkbox]), select") || document.querySelector("dialog[open]")) return;
      if (event.altKey || event.ctrlKey || event.metaKey || byId("gallery").hidden) return;
      if (event.key === "h") showHeat(!byId("show-heat").checked);
      if (event.key === "n") turn(1);
      if (event.key === "p") turn(-1);
    });
    byId("filters").open = !matchMedia("(max-width: 860px)").matches;
    showHeat(true);
    drawHistogram();
    setThreshold(best());
    zsad.detail.start({ facts, decision, threshold: () => threshold, order: () => order, focus });
  }

  /** Put the focus on the card of an image, turning to its page. */
  async function focus(i) {
    const position = order.indexOf(i);
    if (position < 0) return;
    page = Math.floor(position / PAGE);
    await render();
    const node = byId("grid").querySelector(`[data-number="${i}"]`);
    if (node) node.focus();
  }

  start();
  return { threshold: () => threshold };
})();
