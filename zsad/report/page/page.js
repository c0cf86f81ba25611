// Data that arrives by script files, small helpers, and the tabs. Loaded first; the other files use `zsad`.
"use strict";

const zsad = (() => {
  const FAILED = 4, PHOTO = 8, HEAT = 16, LARGE = 32;
  const received = new Map();
  const waiting = new Map();

  /** Called by every data file with its own name. */
  function receive(name, value) {
    received.set(name, value);
  }

  /** A promise of the content of data/NAME.js; a page from disk can load scripts but nothing else. */
  function load(name) {
    if (!waiting.has(name)) {
      waiting.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => received.has(name) ? resolve(received.get(name)) : reject(new Error(name));
        script.onerror = () => { waiting.delete(name); reject(new Error(`data/${name}.js cannot be read`)); };
        document.head.append(script);
      }));
    }
    return waiting.get(name);
  }

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  /** The index of all images, unpacked; images are numbered from the highest score on, failed ones last. */
  function index() {
    const facts = received.get("index");
    const flags = bytes(facts.flags);
    return {
      ...facts,
      scores: new Float32Array(bytes(facts.scores).buffer),
      categories: new Uint32Array(bytes(facts.categories).buffer),
      label: (i) => flags[i] & 3,
      failed: (i) => (flags[i] & FAILED) !== 0,
      hasPhoto: (i) => (flags[i] & PHOTO) !== 0,
      hasHeat: (i) => (flags[i] & HEAT) !== 0,
      isLarge: (i) => (flags[i] & LARGE) !== 0,
    };
  }

  async function row(number, facts) {
    const chunk = await load(`rows-${Math.floor(number / facts.rowsPerChunk)}`);
    const [id, key, error, parts] = chunk[number % facts.rowsPerChunk];
    return { number, id, key, error, name: visible(id.split("/").slice(-parts).join("/") || id) };
  }

  async function details(number, facts) {
    const chunk = await load(`details-${Math.floor(number / facts.detailsPerChunk)}`);
    return chunk[number % facts.detailsPerChunk];
  }

  const picture = (key, kind, large) => `pictures/${key.slice(0, 2)}/${key}-${kind}${large ? "-large" : ""}.jpg`;

  /** An element with attributes and children; text is always text, never markup. */
  function element(name, attributes = {}, ...children) {
    const svg = ["svg", "path", "rect", "text", "g", "circle", "title"].includes(name);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  /** Control and direction characters made visible, so that no name can pass for another. */
  const visible = (text) => String(text).replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, "\uFFFD");
  const number = (value, digits = 4) => value === null || Number.isNaN(value) ? "–" : value.toFixed(digits);
  const byId = (id) => document.getElementById(id);

  function startTabs() {
    const tabs = [...document.querySelectorAll("[role=tab]")];
    const show = (tab) => {
      for (const other of tabs) {
        const chosen = other === tab;
        other.setAttribute("aria-selected", chosen);
        other.tabIndex = chosen ? 0 : -1;
        byId(other.getAttribute("aria-controls")).hidden = !chosen;
      }
    };
    tabs.forEach((tab, position) => {
      tab.addEventListener("click", () => show(tab));
      tab.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
        if (step === undefined) return;
        const next = tabs[(position + step + tabs.length) % tabs.length];
        show(next);
        next.focus();
        event.preventDefault();
        event.stopPropagation();
      });
    });
    for (const section of document.querySelectorAll("main > section")) section.setAttribute("role", "tabpanel");
    byId("tabs").hidden = false;
    show(tabs[0]);
    const help = byId("help");
    byId("help-button").addEventListener("click", () => help.showModal());
    byId("help-close").addEventListener("click", () => help.close());
    document.addEventListener("keydown", (event) => {
      if (event.key === "?" && !event.target.matches("input, select") && !help.open) help.showModal();
    });
  }

  startTabs();
  return { receive, load, index, row, details, picture, element, visible, number, byId };
})();
