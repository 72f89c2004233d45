// From the file system a page may read no other file, so results of the search come without the lines around them.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

// Where a telephone shows a table of claims, or of class `listed`, as a list, each cell says which column it is from (see book.css).
document.addEventListener("DOMContentLoaded", () => {
  for (const image of document.querySelectorAll("article figure img")) {  // a tap on a figure shows it alone, to be enlarged
    const link = Object.assign(document.createElement("a"), { href: image.src });
    image.replaceWith(link);
    link.append(image);
  }
  for (const table of document.querySelectorAll("figure.captioned-table table:is(:has(.verdict), .listed)")) {
    const heads = [...table.querySelectorAll("thead th")].map((head) => head.textContent.trim());
    for (const row of table.querySelectorAll("tbody tr"))
      [...row.cells].forEach((cell, place) => place && (cell.dataset.column = heads[place]));
  }
});
