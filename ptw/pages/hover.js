"use strict";
const nearest = (xs, x) => xs.reduce((best, one, i) => Math.abs(one - x) < Math.abs(xs[best] - x) ? i : best, 0);
for (const area of document.querySelectorAll("[data-points]")) {
  const lines = JSON.parse(area.dataset.points);
  const [low, high] = JSON.parse(area.dataset.range);
  const cursor = area.querySelector(".cursor"), tip = area.querySelector(".tip");
  const places = [...new Set(lines.flatMap(line => line.x))].sort((a, b) => a - b);
  let at = 0;
  const show = () => {
    if (!places.length) return;
    const x = places[at], left = high > low ? 100 * (x - low) / (high - low) : 50;
    tip.replaceChildren();
    for (const line of lines) {
      if (x < line.x[0] || x > line.x[line.x.length - 1]) continue;
      const found = nearest(line.x, x);
      const row = tip.appendChild(document.createElement("div"));
      row.appendChild(document.createElement("i")).className = "s" + line.series;
      row.append(`${line.name ? line.name + " " : ""}${line.text[found]}`);
    }
    tip.prepend(`${area.dataset.axis} ${x.toLocaleString("en")}`);
    cursor.style.left = left + "%";
    tip.style.left = left < 50 ? left + "%" : "auto";
    tip.style.right = left < 50 ? "auto" : 100 - left + "%";
    area.classList.add("on");
  };
  const point = event => {
    const box = area.getBoundingClientRect();
    at = nearest(places, low + (high - low) * (event.clientX - box.left) / box.width);
    show();
  };
  area.addEventListener("pointermove", point);
  area.addEventListener("pointerdown", point);
  area.addEventListener("pointerleave", () => area.classList.remove("on"));
  area.addEventListener("focus", show);
  area.addEventListener("blur", () => area.classList.remove("on"));
  area.addEventListener("keydown", event => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { at = Math.min(Math.max(at + step, 0), places.length - 1); show(); event.preventDefault(); }
  });
}
const told = document.querySelector(".told");
if (told) {
  let last = null;
  const tell = event => {
    const found = event.target.closest("[data-told]");
    if (found === last) return;
    last?.classList.remove("on");
    found?.classList.add("on");
    last = found;
    told.textContent = found ? found.dataset.told : "";
  };
  document.addEventListener("pointerover", tell);
  document.addEventListener("pointerdown", tell);
}
