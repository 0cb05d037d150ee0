// The copy button of a paper's page.
"use strict";
document.addEventListener("DOMContentLoaded", function () {
  for (const button of document.querySelectorAll("[data-copy]")) {
    const text = document.getElementById(button.dataset.copy);
    const said = document.getElementById("copied");
    function fallback() {
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      return document.execCommand("copy");
    }
    button.addEventListener("click", async function () {
      let done = true;
      try { await navigator.clipboard.writeText(text.textContent); } catch { done = fallback(); }
      button.textContent = done ? "Copied" : "Press Ctrl+C";
      said.textContent = done ? "BibTeX copied" : "BibTeX selected; press Ctrl+C to copy";
      setTimeout(function () { button.textContent = "Copy"; said.textContent = ""; }, 2500);
    });
  }
});
