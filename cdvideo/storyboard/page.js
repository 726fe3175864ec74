"use strict";
const film = document.getElementById("film");
const chapters = [...document.querySelectorAll("#chapters button")];
const calm = matchMedia("(prefers-reduced-motion: reduce)");

function say(words) {
  document.getElementById("said").textContent = words;
}

function seek(event) {
  // A little inside the first frame, or rounding shows the last one of the shot before.
  film.currentTime = Number(event.currentTarget.dataset.start) + 0.01;
  film.play?.()?.catch(() => {});  // A GIF plays by itself.
  if (!event.currentTarget.closest("#chapters")) film.scrollIntoView({ block: "center" });
}

function mark() {
  for (const chapter of chapters) {
    const { start, end } = chapter.dataset;
    const current = film.currentTime >= Number(start) && film.currentTime < Number(end);
    if (current === chapter.hasAttribute("aria-current")) continue;
    chapter.toggleAttribute("aria-current", current);
    if (current) {
      chapter.setAttribute("aria-current", "true");
      const list = document.getElementById("chapters");
      const top = chapter.offsetTop - (list.clientHeight - chapter.offsetHeight) / 2;
      list.scrollTo({ top, behavior: calm.matches ? "auto" : "smooth" });
    }
  }
}

async function copy(event) {
  const button = event.currentTarget;
  const code = document.getElementById(button.dataset.copy);
  try {
    await navigator.clipboard.writeText(code.textContent);
  } catch {
    // Where a page from the disk may not use the clipboard, the words are at least selected.
    getSelection().selectAllChildren(code);
    if (!document.execCommand("copy")) return say("Selected; press Ctrl-C");
  }
  button.textContent = "Copied";
  say("Copied");
  setTimeout(() => (button.textContent = "Copy"), 1500);
}

function play(button, wanted) {
  const clip = button.firstElementChild;
  button.setAttribute("aria-pressed", String(wanted));
  if (wanted) clip.play().catch(() => button.setAttribute("aria-pressed", "false"));
  else clip.pause();
}

for (const button of document.querySelectorAll("[data-start]")) button.addEventListener("click", seek);
for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", copy);
for (const button of document.querySelectorAll("button.clip")) {
  button.addEventListener("click", () => play(button, button.getAttribute("aria-pressed") !== "true"));
  button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && play(button, false));
}
for (const happening of ["timeupdate", "seeked", "loadedmetadata"]) film.addEventListener(happening, mark);
