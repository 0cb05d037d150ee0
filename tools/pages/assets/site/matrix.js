// The heat map over any two axes; state in the address: #rows=skill&columns=year.
"use strict";
document.addEventListener("DOMContentLoaded", function () {
  const { facets, papers } = window.KD_ATLAS;
  const form = document.getElementById("axes");
  const table = document.getElementById("heat");
  const scope = facets.findIndex((facet) => facet.id === "scope");
  const counted = papers.filter((paper) => paper.facets[scope].some((value) => facets[scope].values[value][0] === "llm"));
  const names = [...form.elements.rows.options].map((option) => option.value);

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function read() {
    const state = new URLSearchParams(location.hash.slice(1));
    const pick = (name, otherwise) => (names.includes(state.get(name)) ? state.get(name) : otherwise);
    form.elements.rows.value = pick("rows", "elicitation");
    form.elements.columns.value = pick("columns", "algorithm");
    if (form.elements.rows.value === form.elements.columns.value) other(form.elements.columns);
  }

  function other(select) {
    select.value = names.find((name) => name !== select.value);
  }

  function draw() {
    const at = [form.elements.rows.value, form.elements.columns.value].map((id) => facets.findIndex((facet) => facet.id === id));
    const [rows, columns] = at.map((place) => facets[place]);
    const counts = rows.values.map(() => columns.values.map(() => 0));
    const totals = [rows.values.map(() => 0), columns.values.map(() => 0)];
    for (const paper of counted) {
      at.forEach((place, side) => { for (const value of paper.facets[place]) totals[side][value] += 1; });
      for (const row of paper.facets[at[0]]) for (const column of paper.facets[at[1]]) counts[row][column] += 1;
    }
    const most = Math.max(1, ...counts.flat());
    const link = (count, parts, label) => element("a", { href: "search.html#" + parts.join("&") + "&scope=llm", "aria-label": label + ": " + count + (count === 1 ? " paper" : " papers") }, String(count));
    const query = (facet, value) => facet.id + "=" + encodeURIComponent(value[0]);
    const head = element("tr", {}, element("td", {}));
    columns.values.forEach((value) => head.append(element("th", { scope: "col" }, element("span", {}, value[1]))));
    head.append(element("th", { scope: "col", class: "total" }, element("span", {}, "all")));
    const body = rows.values.map((row, r) => {
      const line = element("tr", {}, element("th", { scope: "row" }, row[1]));
      columns.values.forEach((column, c) => {
        const count = counts[r][c];
        const level = count ? 1 + Math.min(4, Math.floor(5 * Math.sqrt((count - 0.5) / most))) : 0;
        const cell = element("td", { class: "h" + level });
        cell.append(count ? link(count, [query(rows, row), query(columns, column)], row[1] + " and " + column[1]) : "·");
        line.append(cell);
      });
      line.append(element("td", { class: "total" }, link(totals[0][r], [query(rows, row)], row[1])));
      return line;
    });
    const foot = element("tr", {}, element("th", { scope: "row", class: "total" }, "all"));
    columns.values.forEach((column, c) => foot.append(element("td", { class: "total" }, link(totals[1][c], [query(columns, column)], column[1]))));
    foot.append(element("td", { class: "total" }, String(counted.length)));
    table.classList.toggle("many", columns.values.length > 7);
    table.tHead.replaceChildren(head);
    table.tBodies[0].replaceChildren(...body, foot);
    document.getElementById("about").textContent = "Papers by " + rows.title.toLowerCase() + " (down) and " + columns.title.toLowerCase() + " (across)";
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", function (event) {
    const { rows, columns } = form.elements;
    if (rows.value === columns.value) other(event.target === rows ? columns : rows);
    history.pushState(null, "", location.pathname + "#rows=" + rows.value + "&columns=" + columns.value);
    draw();
  });
  window.addEventListener("popstate", function () { read(); draw(); });
  read();
  draw();
});
