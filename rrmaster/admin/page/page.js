// Puts the content that the server sends each second in the place of the old one.  What is open stays open, and the
// focus stays where it is, or a reader of a traceback would lose it every second.
"use strict";

const live = document.getElementById("live");
const freshness = document.getElementById("freshness");

function replace(html) {
  const open = [...live.querySelectorAll("details[open]")].map((each) => each.id);
  const focused = live.contains(document.activeElement) ? path(document.activeElement) : null;
  const scrolled = [...live.querySelectorAll(".wide, pre")].map((each) => [path(each), each.scrollLeft, each.scrollTop]);
  live.innerHTML = html; // made by the server, which has escaped all that is not its own
  for (const id of open) document.getElementById(id)?.setAttribute("open", "");
  for (const [where, left, top] of scrolled) at(where)?.scrollTo(left, top);
  if (focused) at(focused)?.focus({ preventScroll: true });
}

function path(element) {
  const details = element.closest("details");
  return details ? [details.id, element.tagName] : ["", element.className];
}

function at([id, name]) {
  return id ? document.getElementById(id)?.querySelector(name) : name && live.querySelector(`.${name.split(" ")[0]}`);
}

const source = new EventSource("live");
source.onmessage = (event) => {
  if (!document.getSelection()?.toString()) replace(event.data);
  freshness.textContent = "Live: changes each second, and waits while text is selected.";
};
source.onerror = () => { freshness.textContent = "The admin server does not answer; this is what was known last."; };
