// A link may carry a token behind "#", which browsers send to no server: put it into the form of the login. It is
// not sent by itself, so that no link logs anybody in as somebody else.
"use strict";
const form = document.getElementById("login");
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (form && token) {
  history.replaceState(null, "", location.pathname + location.search);
  form.elements.namedItem("token").value = token;
  form.querySelector("button").focus();
}
// What was done is told once, and not again by the address.
const address = new URL(location.href);
if (address.searchParams.has("done")) {
  for (const name of ["done", "count", "unanswered"]) address.searchParams.delete(name);
  history.replaceState(null, "", address);
}
// A part of the page that cannot be renewed says so: it may be wrong by now.
function failed() {
  if (document.getElementById("stale")) return;
  const line = document.createElement("p");
  line.id = "stale";
  line.className = "problem";
  line.setAttribute("role", "alert");
  line.textContent = `Not renewed since ${new Date().toISOString().slice(11, 19)} UTC: the listener does not answer. What is below may have changed.`;
  document.querySelector("h1").after(line);
}
for (const name of ["htmx:responseError", "htmx:sendError", "htmx:timeout"]) document.addEventListener(name, failed);
document.addEventListener("htmx:afterSwap", () => document.getElementById("stale")?.remove());
// The live view shows each event once, and keeps its newest rows below the one that brings them.
document.addEventListener("htmx:afterSwap", () => {
  const rows = document.getElementById("rows");
  const seen = new Set();
  for (const row of rows ? [...rows.rows] : []) {
    const id = row.dataset.event;
    if (seen.has(id) || row.sectionRowIndex > Number(rows.dataset.most)) row.remove();
    else if (id) seen.add(id);
  }
});
