// The page looks at the server again and again, and swaps the parts that have changed. Without this script it works all
// the same: a plain reload does that. Nothing is fetched while nobody sees the page.
"use strict";

const every = Number(document.body.dataset.refresh) * 1000;
const button = document.getElementById("live");
const words = document.getElementById("live-text");
let timer = 0;
let isOn = true;
let isFetching = false;

function later() {
  clearTimeout(timer);
  if (isOn && !document.hidden) timer = setTimeout(look, every);
}

function tell(text, isStale) {
  words.textContent = text;
  button.classList.toggle("stale", isStale);
  document.documentElement.classList.toggle("stale-page", isStale);
}

// Whether somebody is at work in a part: a swap would take away what is selected or typed.
function isInUse(part) {
  const selection = getSelection();
  if (!selection.isCollapsed && part.contains(selection.anchorNode)) return true;
  return part.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
}

// Return a function that finds an element again in the new content of its part: by its address, or by what is around it.
function finder(element, part) {
  const address = element.getAttribute("href");
  const owner = element.closest("[id]");
  const path = [];
  for (let at = element; at !== owner; at = at.parentElement) path.unshift([...at.parentElement.children].indexOf(at));
  return () => {
    const same = address && part.querySelector(`[href="${CSS.escape(address)}"]`);
    return same || path.reduce((at, n) => at && at.children[n], document.getElementById(owner.id));
  };
}

function swap(part, fresh) {
  if (part.innerHTML === fresh.innerHTML || isInUse(part)) return;
  const open = new Set([...part.querySelectorAll("details[open]")].map((details) => details.id));
  const scrolled = [...part.querySelectorAll(".scroll, pre")].map((box) => [box.scrollLeft, box.scrollTop]);
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const find = focused && finder(focused, part);
  part.replaceChildren(...fresh.childNodes);
  part.querySelectorAll("details").forEach((details) => { details.open = open.has(details.id); });
  part.querySelectorAll(".scroll, pre").forEach((box, n) => {
    if (scrolled[n]) [box.scrollLeft, box.scrollTop] = scrolled[n];
  });
  if (find) (find() || document.getElementById("main")).focus({ preventScroll: true });
}

async function look() {
  if (isFetching) return;
  isFetching = true;
  try {
    const reply = await fetch(location.href, { signal: AbortSignal.timeout(8000) });
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    const problem = page.getElementById("problem");
    if (!reply.ok) throw new Error(problem ? problem.querySelector("h1").textContent : "no reply");
    // The page that is shown says that something was wrong, which is over.
    if (document.getElementById("problem")) return location.reload();
    for (const part of document.querySelectorAll("[data-live]")) {
      const fresh = page.getElementById(part.id);
      if (fresh) swap(part, fresh);
    }
    const parts = (of) => [...of.querySelectorAll("[data-live]")].map((part) => part.id).join();
    if (parts(document) !== parts(page)) return location.reload();
    document.getElementById("seen").textContent = page.getElementById("seen").textContent;
    tell("Live", false);
  } catch (error) {
    const reason = error instanceof TypeError || error.name === "TimeoutError" ? "No reply" : error.message;
    tell(`${reason}: stale`, true);
  } finally {
    isFetching = false;
    later();
  }
}

if (every) {
  button.hidden = false;
  button.addEventListener("click", () => {
    isOn = !isOn;
    button.setAttribute("aria-pressed", String(isOn));
    tell(isOn ? "Live" : "Stopped", false);
    if (isOn) look(); else clearTimeout(timer);
  });
  document.addEventListener("visibilitychange", () => { if (!document.hidden && isOn) look(); else clearTimeout(timer); });
  later();
}
