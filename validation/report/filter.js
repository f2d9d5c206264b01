// Narrows the list of flagged rows by issue and by text. The list is whole without it.
for (const section of document.querySelectorAll("[data-flagged]")) {
  const rows = [...section.querySelectorAll("tbody tr")];
  const chips = [...section.querySelectorAll("button[data-issue]")];
  const search = section.querySelector("input[type=search]");
  const shown = section.querySelector("[data-shown]");
  const words = rows.map((row) => row.textContent.toLowerCase());
  let issue = null;
  const apply = () => {
    const wanted = search.value.toLowerCase();
    let count = 0;
    rows.forEach((row, place) => {
      row.hidden = (issue !== null && row.dataset.issue !== issue) || !words[place].includes(wanted);
      count += row.hidden ? 0 : 1;
    });
    shown.textContent = `${count} of ${rows.length} listed rows shown`;
    chips.forEach((chip) => chip.setAttribute("aria-pressed", String(chip.dataset.issue === issue)));
  };
  search.addEventListener("input", apply);
  for (const chip of chips) {
    chip.disabled = false;
    chip.addEventListener("click", () => {
      issue = issue === chip.dataset.issue ? null : chip.dataset.issue;
      apply();
    });
  }
  section.querySelector("[data-filter]").hidden = false;
}
