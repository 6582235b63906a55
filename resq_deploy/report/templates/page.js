(function () {
  "use strict";

  // Paper: what is folded away is shown
  var folded = [];
  window.addEventListener("beforeprint", function () {
    folded = Array.from(document.querySelectorAll("details:not([open])"));
    folded.forEach(function (part) { part.open = true; });
  });
  window.addEventListener("afterprint", function () {
    folded.forEach(function (part) { part.open = false; });
  });

  // Tables: a column is sorted by its leading numbers where all its cells have one, else by its words
  var NUMBER = /^[<+\-\u2212]?\s?\d[\d,]*(\.\d+)?(e[+-]?\d+)?(?![\w.])/;
  function number(text) {
    var found = text.match(NUMBER);
    return found ? parseFloat(found[0].replace(/[<,\s]/g, "").replace("\u2212", "-")) : NaN;
  }
  function empty(text) { return text === "-" || text === ""; }
  function sort(body, column, numeric, descending) {
    var rows = Array.from(body.rows);
    rows.sort(function (one, other) {
      var a = one.cells[column].textContent.trim(), b = other.cells[column].textContent.trim();
      if (empty(a) || empty(b)) { return empty(a) - empty(b); }
      var order = numeric ? number(a) - number(b) : a.localeCompare(b, "en", { numeric: true });
      return descending ? -order : order;
    });
    rows.forEach(function (row) { body.appendChild(row); });
  }
  document.querySelectorAll("table").forEach(function (table) {
    var heads = Array.from(table.tHead.rows[0].cells), body = table.tBodies[0];
    heads.forEach(function (head, column) {
      var cells = Array.from(body.rows, function (row) { return row.cells[column].textContent.trim(); });
      var known = cells.filter(function (text) { return !empty(text); });
      var numeric = known.length > 0 && known.every(function (text) { return !isNaN(number(text)); });
      if (!numeric && column > 0) {
        head.classList.add("text");
        Array.from(body.rows).forEach(function (row) { row.cells[column].classList.add("text"); });
      }
      if (body.rows.length < 2) { return; }
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = head.textContent;
      head.textContent = "";
      head.appendChild(button);
      button.addEventListener("click", function () {
        var down = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "ascending" : numeric;
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(body, column, numeric, down);
      });
    });
  });
})();
