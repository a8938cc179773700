// Draws the figures of the page: theme colors ("--name") are resolved here, so that light, dark and
// print share one specification. plotly.js lies in the page as compressed text and is unpacked first.
(async () => {
  "use strict";
  const root = document.documentElement;
  const figures = JSON.parse(document.getElementById("figures").textContent);
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
    const { data, layout } = themed(figure, getComputedStyle(root));
    const width = printing ? (box.closest(".row, .pair") ? 330 : 680) : box.clientWidth;
    if (width < 560) {
      Object.entries(figure.narrow ?? {}).forEach(([path, value]) => put(layout, path, value));
      if (figure.narrow_text === false) data.forEach((trace) => delete trace.texttemplate);
    }
    layout.font.family = getComputedStyle(document.body).fontFamily;
    layout.width = width;
    return Plotly.react(box, data, layout, options);
  };

  const unpack = async (id) => {
    const packed = atob(document.getElementById(id).textContent);
    const bytes = Uint8Array.from(packed, (sign) => sign.charCodeAt(0));
    const plain = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(plain).text();
    document.head.append(script);
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

  if (!("DecompressionStream" in window)) {
    boxes.forEach((box) => box.append("This plot needs a browser of 2023 or later."));
    return;
  }
  await unpack("plotly");
  drawAll();
  root.dataset.drawn = String(boxes.length);
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
