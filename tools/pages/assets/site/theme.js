// On every page. Light or dark: the system's choice until the reader makes one, which is kept; runs before the first paint.
"use strict";
(function () {
  const root = document.documentElement;
  root.classList.add("js");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  function kept() {
    try { return localStorage.getItem("kd-atlas-theme"); } catch { return null; }
  }
  function current() {
    return root.dataset.theme || (dark.matches ? "dark" : "light");
  }
  if (["light", "dark"].includes(kept())) root.dataset.theme = kept();
  document.addEventListener("DOMContentLoaded", function () {
    // The address after # belongs to the page's own state (a search, two axes): skipping must not overwrite it.
    document.querySelector(".skip").addEventListener("click", function (event) {
      event.preventDefault();
      document.getElementById("main").focus();
    });
    const button = document.getElementById("theme");
    function show() { button.setAttribute("aria-pressed", String(current() === "dark")); }
    show();
    dark.addEventListener("change", show);
    button.addEventListener("click", function () {
      root.dataset.theme = current() === "dark" ? "light" : "dark";
      try { localStorage.setItem("kd-atlas-theme", root.dataset.theme); } catch { /* private mode: not kept */ }
      show();
    });
  });
})();
