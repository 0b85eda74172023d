for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const number = row => parseFloat(row.cells[column].dataset.value);
      const text = row => row.cells[column].textContent.trim();
      const isNumeric = [...body.rows].some(row => !isNaN(number(row)));
      // Numbers begin with the largest, words with A; a second click turns the order round.
      const was = head.getAttribute("aria-sort");
      const order = was ? (was === "ascending" ? "descending" : "ascending") : isNumeric ? "descending" : "ascending";
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => {
        if (!isNumeric) return sign * text(a).localeCompare(text(b), undefined, { numeric: true });
        if (isNaN(number(a)) || isNaN(number(b))) return isNaN(number(a)) - isNaN(number(b));
        return sign * (number(a) - number(b));
      };
      body.append(...[...body.rows].sort(compare));
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
    };
  });
}
