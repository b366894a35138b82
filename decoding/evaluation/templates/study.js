const selects = Array.from(document.querySelectorAll(".controls select"));
const shown = document.getElementById("none");
function show() {
  const wanted = selects.map((select) => select.value);
  let found = false;
  for (const each of document.querySelectorAll("section.example")) {
    each.hidden = each.dataset.level !== wanted[0] || each.dataset.prompt !== wanted[1];
    found = found || !each.hidden;
  }
  shown.hidden = found;
}
selects.forEach((select) => select.addEventListener("change", show));
document.querySelector(".controls").hidden = false;
show();
