// Papers over time, one row of bars per value of an axis; the page's table holds the same figures by year.
"use strict";
document.addEventListener("DOMContentLoaded", function () {
  const { facets, papers } = window.KD_ATLAS;
  const form = document.getElementById("choices");
  const chart = document.getElementById("chart");
  const left = document.getElementById("left-out");
  const scope = facets.findIndex((facet) => facet.id === "scope");
  const counted = papers.filter((paper) => paper.facets[scope].some((value) => facets[scope].values[value][0] === "llm"));
  const months = { year: 12, quarter: 3, month: 1 };

  function month(paper) {
    const [year, number] = paper.date.split("-").map(Number);
    return year * 12 + number - 1;
  }
  function draw() {
    const at = facets.findIndex((facet) => facet.id === form.elements.axis.value);
    const facet = facets[at];
    const step = months[form.elements.unit.value];
    // Years go all the way back; finer steps start where papers become dense, and say what they leave out.
    const dates = counted.map(month).sort((a, b) => a - b);
    const first = step === 12 ? dates[0] : dates[Math.floor(dates.length * (step === 3 ? 0.04 : 0.1))];
    const start = Math.floor(first / 12) * 12;
    const bars = new Map();
    for (const paper of counted) {
      const when = Math.floor(month(paper) / step) * step;
      if (when < start) continue;
      for (const value of paper.facets[at]) {
        const key = value + " " + when;
        if (!bars.has(key)) bars.set(key, { row: facet.values[value][1], from: day(when), to: day(when + step), name: title(when, step), papers: 0 });
        bars.get(key).papers += 1;
      }
    }
    const before = counted.filter((paper) => month(paper) < start).length;
    left.textContent = before ? before + " papers before " + Math.floor(start / 12) + " are not drawn; the table has them." : "";
    const rows = facet.values.map((value) => value[1]).filter((row) => [...bars.values()].some((bar) => bar.row === row));
    const width = Math.max(chart.clientWidth, 320);
    const narrow = width < 600;
    chart.replaceChildren(Plot.plot({
      width,
      height: rows.length * (narrow ? 78 : 74) + 60,
      marginLeft: 34,
      marginRight: narrow ? 8 : 190,
      marginTop: 24,
      ariaLabel: "Papers per " + form.elements.unit.value + " by " + facet.title.toLowerCase(),
      ariaDescription: "The table below holds the same figures by year.",
      x: { type: "utc", label: null, ticks: narrow ? 4 : 8 },
      y: { label: narrow ? null : "papers", ticks: 2, tickFormat: "d", grid: true, labelArrow: "none" },
      fy: { domain: rows, label: null, axis: null, padding: narrow ? 0.35 : 0.18 },
      marks: [
        Plot.rectY([...bars.values()], {
          x1: "from", x2: "to", y: "papers", fy: "row", fill: "var(--accent)", insetLeft: 0.5, insetRight: 0.5,
          tip: { format: { x1: false, x2: false, x: false, fy: false, y: false, when: true }, fill: "var(--raised)" },
          channels: { when: { value: (bar) => bar.name + ": " + bar.papers, label: "" } },
        }),
        Plot.ruleY([0], { stroke: "var(--strong-line)" }),
        Plot.text(rows, narrow
          ? { fy: (row) => row, text: (row) => row, frameAnchor: "top-left", dy: -15, fontWeight: 600, fontSize: 12, fill: "currentColor" }
          : { fy: (row) => row, text: (row) => row, frameAnchor: "right", textAnchor: "start", dx: 12, lineWidth: 14, fontSize: 13, fill: "currentColor" }),
      ],
    }));
  }
  function day(when) { return new Date(Date.UTC(Math.floor(when / 12), when % 12, 1)); }
  function title(when, step) {
    const year = Math.floor(when / 12);
    if (step === 12) return String(year);
    if (step === 3) return year + " quarter " + ((when % 12) / 3 + 1);
    return year + "-" + String((when % 12) + 1).padStart(2, "0");
  }
  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    for (const name of ["axis", "unit"]) {
      const select = form.elements[name];
      const wanted = state.get(name);
      select.value = [...select.options].some((option) => option.value === wanted) ? wanted : select.querySelector("[selected]").value;
    }
  }
  let timer = 0;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", function () {
    history.pushState(null, "", location.pathname + "#axis=" + form.elements.axis.value + "&unit=" + form.elements.unit.value);
    draw();
  });
  window.addEventListener("popstate", function () { read(); draw(); });
  window.addEventListener("resize", function () { clearTimeout(timer); timer = setTimeout(draw, 150); });
  read();
  draw();
});
