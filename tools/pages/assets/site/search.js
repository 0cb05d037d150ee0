// Faceted search. The papers are in the page already; this orders and hides them, and keeps its state in the address:
// #q=text&elicitation=feature,feedback&year=2024. Values of one facet are alternatives, facets narrow each other.
"use strict";
document.addEventListener("DOMContentLoaded", function () {
  const { facets, papers } = window.KD_ATLAS;
  const form = document.getElementById("filters");
  const text = form.elements.q;
  const order = form.elements.sort;
  const list = document.getElementById("results");
  const items = papers.map((paper) => document.getElementById("r-" + paper.id));
  const status = document.getElementById("count");
  const clear = document.getElementById("clear");
  const boxes = facets.map((facet) => {
    const found = [...form.querySelectorAll("input[type=checkbox]")].filter((box) => box.name === facet.id);
    return facet.values.map(([id]) => found.find((box) => box.value === id));
  });
  const outputs = boxes.map((row) => row.map((box) => box.closest("label").querySelector(".count")));
  const common = new Set("a an and by for from in of on or the to with".split(" "));

  const engine = new MiniSearch({
    fields: ["id", "title", "adds", "authors", "models", "labels"],
    idField: "place",
    processTerm: (term) => (common.has(term.toLowerCase()) ? null : term.toLowerCase()),
    searchOptions: {
      boost: { id: 4, title: 3, labels: 1.5 },
      prefix: (term) => term.length > 1,
      fuzzy: (term) => (term.length > 3 ? 0.25 : false),
      combineWith: "AND",
    },
  });
  engine.addAll(papers.map((paper, place) => ({
    place,
    id: paper.id,
    title: paper.title,
    adds: paper.adds,
    authors: paper.authors,
    models: paper.models,
    labels: facets.map((facet, at) => paper.facets[at].map((value) => facet.values[value][1]).join(" ")).join(" "),
  })));

  function read() {
    const hash = location.hash.slice(1);
    const state = new URLSearchParams(hash || location.search);
    text.value = state.get("q") || "";
    order.value = [...order.options].some((option) => option.value === state.get("sort")) ? state.get("sort") : "best";
    facets.forEach((facet, at) => {
      const wanted = (state.get(facet.id) || "").split(",");
      boxes[at].forEach((box, value) => { box.checked = wanted.includes(facet.values[value][0]); });
    });
    for (const details of form.querySelectorAll(".facets details details, .facets > details > details")) {
      if (details.querySelector("input:checked")) details.open = true;
    }
  }

  function address() {
    const parts = [];
    if (text.value.trim()) parts.push("q=" + encodeURIComponent(text.value.trim()));
    facets.forEach((facet, at) => {
      const chosen = boxes[at].filter((box) => box.checked).map((box) => encodeURIComponent(box.value));
      if (chosen.length) parts.push(facet.id + "=" + chosen.join(","));
    });
    if (order.value !== "best") parts.push("sort=" + order.value);
    return "#" + parts.join("&");
  }

  function write(push) {
    const next = address();
    if (next === (location.hash || "#")) return;
    const url = location.pathname + next;
    if (push) history.pushState(null, "", url); else history.replaceState(null, "", url);
  }

  function passes(paper, chosen, except) {
    return chosen.every((values, at) => at === except || !values.length || values.some((value) => paper.facets[at].includes(value)));
  }

  function show() {
    const query = text.value.trim();
    const chosen = boxes.map((row) => row.flatMap((box, value) => (box.checked ? [value] : [])));
    let found = papers.map((_, place) => place);
    if (query) found = engine.search(query).map((result) => result.id);
    const counts = facets.map((facet) => facet.values.map(() => 0));
    const kept = [];
    for (const place of found) {
      const paper = papers[place];
      facets.forEach((_, at) => {
        if (passes(paper, chosen, at)) for (const value of paper.facets[at]) counts[at][value] += 1;
      });
      if (passes(paper, chosen, -1)) kept.push(place);
    }
    // Papers come newest first, so their place is their age.
    if (order.value === "newest") kept.sort((a, b) => a - b);
    if (order.value === "oldest") kept.sort((a, b) => b - a);
    if (order.value === "title") kept.sort((a, b) => papers[a].title.localeCompare(papers[b].title));
    const visible = new Set(kept);
    items.forEach((item, place) => { item.hidden = !visible.has(place); });
    list.append(...kept.map((place) => items[place]));
    counts.forEach((row, at) => row.forEach((count, value) => {
      outputs[at][value].textContent = count;
      boxes[at][value].closest("label").classList.toggle("none", count === 0 && !boxes[at][value].checked);
    }));
    const filtered = query || chosen.some((values) => values.length);
    clear.hidden = !filtered;
    document.getElementById("nothing").hidden = kept.length > 0;
    status.textContent = kept.length + (kept.length === 1 ? " paper" : " papers") + (filtered ? " of " + papers.length : "");
  }

  let timer = 0;
  let typing = false;
  form.addEventListener("submit", (event) => { event.preventDefault(); write(!typing); typing = false; show(); });
  form.addEventListener("change", (event) => {
    if (event.target === text) { typing = false; return; }
    write(true);
    show();
  });
  text.addEventListener("input", function () {
    clearTimeout(timer);
    timer = setTimeout(function () {
      write(!typing); // one step back in the history for one search, not for every letter
      typing = true;
      show();
    }, 120);
  });
  clear.addEventListener("click", function () {
    text.value = "";
    for (const box of boxes.flat()) box.checked = false;
    write(true);
    show();
    text.focus();
  });
  window.addEventListener("popstate", function () { clearTimeout(timer); typing = false; read(); show(); });
  if (window.matchMedia("(max-width: 52rem)").matches) document.getElementById("all-facets").open = false;
  read();
  show();
});
