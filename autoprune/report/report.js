// Draws the figures of the page: theme colors ("--name") are resolved here, so that light, dark and
// print share one specification. They and plotly.js lie in the page as compressed text.
(async () => {
  "use strict";
  const root = document.documentElement;
  let figures = {};
  let texts = []; // those that occur several times; where one belongs stands its place in the list
  const options = { displayModeBar: false, responsive: false };
  const chosen = {};
  let printing = false; // paper is narrower than the window: plots get a width that fits

  const channels = (hex) => hex.match(/[0-9a-f]{2}/gi).map((pair) => parseInt(pair, 16));

  // "--heat 30" is the colour at 30 % of the scale from --heat-0 over --heat-1 to --heat-2
  const heat = (percent, style) => {
    const at = percent / 50;
    const low = Math.min(1, Math.floor(at));
    const [from, to] = [low, low + 1].map((stop) => channels(style.getPropertyValue(`--heat-${stop}`)));
    return `rgb(${from.map((value, n) => Math.round(value + (at - low) * (to[n] - value)))})`;
  };

  const themed = (value, style) => {
    if (typeof value === "string") {
      if (value.startsWith("--heat ")) return heat(Number(value.slice(7)), style);
      return value.startsWith("--") ? style.getPropertyValue(value).trim() : value;
    }
    if (Array.isArray(value)) return value.map((item) => themed(item, style));
    if (value === null || typeof value !== "object") return value;
    if ("$text" in value) return texts[value.$text];
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, themed(item, style)]));
  };

  const put = (target, path, value) => {
    const keys = path.split(".");
    const last = keys.pop();
    keys.reduce((inner, key) => (inner[key] ??= {}), target)[last] = value;
  };

  const draw = (box) => {
    let figure = figures[box.dataset.figure];
    if (box.dataset.axis) figure = figure[chosen[box.id] ?? box.dataset.axis];
    document.querySelectorAll(".legend li").forEach((mark) => {
      if (figure.legend) mark.hidden = !figure.legend.includes(mark.dataset.mark);
    });
    const { models, ...shared } = figure;
    const style = getComputedStyle(root);
    const drawn = themed(shared, style);
    const own = models?.[chosen[box.id] ?? box.dataset.model]?.put ?? {};
    Object.entries(own).forEach(([path, value]) => put(drawn, path, themed(value, style)));
    const { data, layout } = drawn;
    const width = printing ? (box.closest(".row, .pair") ? 330 : 680) : box.clientWidth;
    if (width < 560) {
      Object.entries(figure.narrow ?? {}).forEach(([path, value]) => put(layout, path, value));
      if (figure.narrow_text === false) data.forEach((trace) => delete trace.texttemplate);
    }
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.width = width;
    return Plotly.react(box, data, layout, options);
  };

  const unpacked = (id) => {
    const packed = atob(document.getElementById(id).textContent);
    const bytes = new Uint8Array(packed.length); // a plain loop: Uint8Array.from takes ten times as long
    for (let place = 0; place < packed.length; place++) bytes[place] = packed.charCodeAt(place);
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip")));
  };

  const boxes = [...document.querySelectorAll("[data-figure]")];
  const drawAll = () => boxes.forEach(draw);

  document.querySelectorAll(".axes button").forEach((button) => {
    button.addEventListener("click", () => {
      const box = document.getElementById(button.parentElement.dataset.for);
      chosen[box.id] = button.dataset.key;
      for (const other of button.parentElement.children) {
        other.setAttribute("aria-pressed", String(other === button));
      }
      draw(box);
    });
  });

  document.querySelectorAll(".axes").forEach((group) => {
    group.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step) return;
      const all = [...group.children];
      const next = all[(all.indexOf(document.activeElement) + step + all.length) % all.length];
      next.focus();
      next.click();
      event.preventDefault();
    });
  });

  document.querySelectorAll("select").forEach((choice) => {
    choice.addEventListener("change", () => {
      const box = document.getElementById(choice.dataset.for);
      chosen[box.id] = choice.value;
      draw(box);
      const { rows } = figures[box.dataset.figure].models[choice.value];
      const whole = (words) => texts[words.$text] ?? words;
      document.querySelectorAll(`[data-rows="${box.id}"] tr`).forEach((row, place) => {
        rows[place].forEach((words, column) => (row.cells[column + 1].textContent = whole(words)));
      });
    });
  });

  document.querySelectorAll("button.copy").forEach((button) => {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code); // files opened from a disk may not write: select instead
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => (button.textContent = "Copy"), 1500);
    });
  });

  if (!("DecompressionStream" in window)) {
    boxes.forEach((box) => box.append("This plot needs a browser of 2023 or later."));
    return;
  }
  const unpacking = [unpacked("figures").json(), unpacked("plotly").text()];
  const script = document.createElement("script");
  [{ figures, texts }, script.textContent] = await Promise.all(unpacking);
  document.head.append(script);
  root.dataset.drawn = "0";
  for (const [place, box] of boxes.entries()) { // one by one: the page can be read meanwhile
    draw(box);
    root.dataset.drawn = String(place + 1);
    await new Promise((done) => setTimeout(done));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let waiting = 0;
  addEventListener("resize", () => {
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(drawAll);
  });
  addEventListener("beforeprint", () => {
    root.dataset.theme = "light";
    printing = true;
    drawAll();
  });
  addEventListener("afterprint", () => {
    delete root.dataset.theme;
    printing = false;
    drawAll();
  });
})();
