
(function () {
  "use strict";
  function compare(a, b) {
    var x = a.key, y = b.key;
    if (typeof x === "number" && typeof y === "number") { return x - y || a.place - b.place; }
    return String(x).localeCompare(String(y), undefined, { numeric: true }) || a.place - b.place;
  }
  function sort(table, header, button) {
    var headers = Array.prototype.slice.call(header.parentNode.children);
    var column = headers.indexOf(header);
    var now = header.getAttribute("aria-sort");
    // The first click sorts a column in its own direction, such as metrics from the lowest; the next click reverses it.
    var order = now === "none" ? header.getAttribute("data-first") : now === "ascending" ? "descending" : "ascending";
    headers.forEach(function (other) { if (other.hasAttribute("aria-sort")) { other.setAttribute("aria-sort", "none"); } });
    header.setAttribute("aria-sort", order);
    var body = table.tBodies[0];
    var rows = Array.prototype.map.call(body.rows, function (row, place) {
      var cell = row.cells[column], value = cell.getAttribute("data-value");
      return { row: row, place: place, key: value === null ? cell.textContent.trim() : Number(value) };
    });
    rows.sort(compare);
    if (order === "descending") { rows.reverse(); }
    rows.forEach(function (item) { body.appendChild(item.row); });
    button.focus();
  }
  document.querySelectorAll("table.sortable").forEach(function (table) {
    table.querySelectorAll("thead th button").forEach(function (button) {
      button.disabled = false;
      button.addEventListener("click", function () { sort(table, button.parentNode, button); });
    });
  });
})();
