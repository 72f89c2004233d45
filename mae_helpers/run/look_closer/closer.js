(() => {
  "use strict";
  const byId = (name) => document.getElementById("closer-" + name);
  const root = document.getElementById("closer");
  const data = JSON.parse(byId("data").textContent);
  const last = data.perturbations[0].levels.length - 1;
  const state = { image: 0, kind: 0, level: last };
  const radios = [...root.querySelectorAll('input[type="radio"]')];
  const cards = [...root.querySelectorAll(".closer-model")];
  const lowestOf = data.perturbations.map((kind) => {  // one scale for all images, so that they can be compared
    const cosines = data.images.flatMap((image) => data.models.flatMap((model) => image.models[model.key][kind.key].cosine));
    return Math.min(0.9, Math.floor(Math.min(...cosines) * 10) / 10);
  });

  const draw = (parent, name, attributes, text) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return parent.appendChild(made);
  };

  const mark = (parent, model, x, y, radius, filled) => {
    const colour = `var(--closer-model-${model % 8})`;
    const style = `stroke:${colour};stroke-width:2;fill:${filled ? colour : "var(--closer-page)"}`;
    if (model % 2) draw(parent, "rect", { x: x - radius, y: y - radius, width: 2 * radius, height: 2 * radius, style });
    else draw(parent, "circle", { cx: x, cy: y, r: radius, style });
  };

  const line = (parent, model, points) => draw(parent, "polyline", {
    points: points.map((point) => point.join(",")).join(" "),
    style: `fill:none;stroke:var(--closer-model-${model % 8});stroke-width:2`,
    "stroke-dasharray": ["none", "6 4", "2 3", "9 3 2 3"][model % 2 + 2 * (model > 3)],
  });

  const drawCurve = () => {
    const svg = byId("svg"), image = data.images[state.image], kind = data.perturbations[state.kind], lowest = lowestOf[state.kind];
    const width = Math.max(280, Math.round(svg.parentNode.clientWidth)), height = 210;
    const box = { left: 34, right: width - 14, top: 12, bottom: height - 28 };
    const count = kind.levels.length;
    const x = (level) => box.left + 8 + (count > 1 ? level / (count - 1) : 0.5) * (box.right - box.left - 8);
    const y = (cosine) => box.bottom - (cosine - lowest) / (1 - lowest) * (box.bottom - box.top);
    svg.replaceChildren();
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const step = 1 - lowest > 1 ? 0.5 : 1 - lowest > 0.4 ? 0.2 : 1 - lowest > 0.15 ? 0.1 : 0.05;
    for (let value = 1; value > lowest - 1e-6; value -= step) {
      draw(svg, "line", { x1: box.left, x2: box.right, y1: y(value), y2: y(value), style: "stroke:var(--closer-border)" });
      draw(svg, "text", { x: box.left - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(step < 0.1 ? 2 : 1));
    }
    draw(svg, "line", { x1: x(state.level), x2: x(state.level), y1: box.top, y2: box.bottom, style: "stroke:var(--closer-text);stroke-width:1.5", "data-level": state.level });
    kind.levels.forEach((name, level) => draw(svg, "text", {
      x: x(level), y: height - 8, "text-anchor": "middle", style: level === state.level ? "font-weight:700" : "",
    }, name.replace(" %", "%")));
    data.models.forEach((model, number) => {
      const found = image.models[model.key][kind.key];
      line(svg, number, found.cosine.map((cosine, level) => [x(level).toFixed(1), y(cosine).toFixed(1)]));
      found.cosine.forEach((cosine, level) =>
        mark(svg, number, x(level), y(cosine), level === state.level ? 6 : 3.5, found.correct[level]));
    });
  };

  const follow = () => {  // `#image=<id>&kind=<perturbation>&level=<its name>`; what is not known stays as it is
    const asked = new URLSearchParams(location.hash.slice(1));
    const place = (list, key, name) => list.findIndex((one) => one[key] === asked.get(name));
    const image = place(data.images, "id", "image"), kind = place(data.perturbations, "key", "kind");
    if (image >= 0) state.image = image;
    if (kind >= 0) state.kind = kind;
    const level = data.perturbations[state.kind].levels.indexOf(asked.get("level"));
    state.level = level >= 0 ? level : data.perturbations[state.kind].levels.length - 1;
  };

  const show = () => {
    const image = data.images[state.image], kind = data.perturbations[state.kind];
    const level = byId("level"), said = [];
    level.max = kind.levels.length - 1;
    level.value = state.level;
    level.setAttribute("aria-valuetext", kind.levels[state.level]);
    byId("level-name").textContent = kind.levels[state.level];
    byId("image").value = state.image;
    radios.forEach((radio, number) => { radio.checked = number === state.kind; });
    byId("clean").src = image.pictures[image.clean];
    byId("clean").alt = `Clean image of the class ${image.truth}`;
    byId("id").textContent = image.id;
    byId("truth").textContent = image.truth;
    data.models.forEach((model, number) => {
      const card = cards[number], placed = image.models[model.key], found = placed[kind.key];
      const name = data.names[found.predicted[state.level]], right = found.correct[state.level];
      const cosine = found.cosine[state.level].toFixed(3), verdict = right ? "right" : "wrong";
      const probability = found.probability[state.level].toFixed(2);
      const seen = card.querySelector(".closer-seen"), over = card.querySelector(".closer-overlay");
      seen.src = image.pictures[found.pictures[state.level]];
      seen.alt = `The image ${kind.words[state.level]}, as ${model.name} sees it`;
      over.src = image.pictures[placed.overlay];
      over.alt = `Heatmap of the rollout of ${model.name} over the clean image`;
      const prediction = card.querySelector(".closer-prediction"), word = document.createElement("span");
      word.className = "closer-" + verdict;
      word.textContent = (right ? "\u2713 " : "\u2717 ") + verdict;
      prediction.replaceChildren(name + " ", word);
      card.querySelector(".closer-probability").textContent = probability;
      card.querySelector(".closer-cosine").textContent = cosine;
      said.push(`${model.name} predicts ${name} with probability ${probability}, which is ${verdict}; cosine ${cosine}.`);
    });
    byId("said").textContent = `${image.title} ${kind.words[state.level]}. ${said.join(" ")}`;
    drawCurve();
  };

  const turn = (by) => {
    state.image = (state.image + by + data.images.length) % data.images.length;
    show();
  };
  byId("previous").addEventListener("click", () => turn(-1));
  byId("next").addEventListener("click", () => turn(1));
  byId("image").addEventListener("change", (event) => { state.image = Number(event.target.value); show(); });
  byId("level").addEventListener("input", (event) => { state.level = Number(event.target.value); show(); });
  radios.forEach((radio, number) => radio.addEventListener("change", () => {
    state.kind = number;
    state.level = data.perturbations[number].levels.length - 1;
    show();
  }));
  let width = 0;
  window.addEventListener("resize", () => {
    if (root.clientWidth !== width) { width = root.clientWidth; drawCurve(); }
  });

  data.models.forEach((model, number) => {
    const key = cards[number].querySelector(".closer-key");
    line(key, number, [[0, 6], [24, 6]]);
    mark(key, number, 12, 6, 3.5, true);
  });
  byId("clean").addEventListener("load", () => {
    root.classList.toggle("closer-small-pictures", byId("clean").naturalWidth <= 100);
  });
  const skip = document.createElement("a");  // beside the book's own link to the text, the first stop of the Tab key
  skip.href = "#closer";
  skip.textContent = "Skip to the controls";
  skip.addEventListener("click", (event) => { event.preventDefault(); byId("image").focus(); });
  document.getElementById("pst-skip-link")?.append(" ", skip);
  window.addEventListener("hashchange", () => { follow(); show(); });
  root.hidden = false;
  follow();
  show();
})();
