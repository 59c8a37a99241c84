// What the tests measure of a page; each function returns what is wrong, nothing where all is well.
const parse = (text) => {
  const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
  return { r, g, b, a };
};
const over = (top, below) => ({
  r: top.r * top.a + below.r * (1 - top.a),
  g: top.g * top.a + below.g * (1 - top.a),
  b: top.b * top.a + below.b * (1 - top.a),
  a: 1,
});
const ground = (element) => {
  const layers = [];
  for (let each = element; each; each = each.parentElement) {
    layers.unshift(parse(getComputedStyle(each).backgroundColor));
  }
  return layers.reduce((below, top) => over(top, below), { r: 255, g: 255, b: 255, a: 1 });
};
const luminance = ({ r, g, b }) => {
  const [x, y, z] = [r, g, b].map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * x + 0.7152 * y + 0.0722 * z;
};
const ratio = (one, other) => {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
};

const faintTexts = (least) => {
  const faint = [];
  const check = (element, text, style, colour = style.color) => {
    const below = ground(element);
    const found = ratio(over(parse(colour), below), below);
    if (found < least) faint.push(`${found.toFixed(2)} ${text.trim().slice(0, 40)}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (texts.nextNode()) {
    const { data, parentElement } = texts.currentNode;
    if (!data.trim() || parentElement.closest("style, title")) continue;
    seen += 1;
    const style = getComputedStyle(parentElement);
    check(parentElement, data, style, parentElement.closest("svg") ? style.fill : style.color);
  }
  for (const element of document.querySelectorAll(".records td[data-label]")) {
    const label = getComputedStyle(element, "::before");
    if (label.content !== "none") check(element, label.content, label);
  }
  for (const each of document.querySelectorAll(".mark")) {
    check(each.parentElement, each.className, getComputedStyle(each));
  }
  return seen > 30 ? faint : [`only ${seen} texts`];
};

// Lines of charts that can't be told from what is behind them, and texts of a chart that collide.
const faintLines = () =>
  [...document.querySelectorAll("svg .mean, svg .limit")]
    .map((each) => [ratio(parse(getComputedStyle(each).stroke), ground(each)), each])
    .filter(([found]) => found < 3)
    .map(([found, each]) => `${found.toFixed(2)} ${each.getAttribute("class")}`);

const collidingTexts = () =>
  [...document.querySelectorAll("svg.chart")].flatMap((chart) => {
    const boxes = [...chart.querySelectorAll("text:not(.limit-text)")]
      .map((each) => [each.getBoundingClientRect(), each.textContent])
      .filter(([box]) => box.width);
    return boxes.flatMap(([one, text], place) =>
      boxes
        .slice(place + 1)
        .filter(([other]) => one.left < other.right && other.left < one.right &&
          one.top < other.bottom - 1 && other.top < one.bottom - 1)
        .map(([, other]) => `${text} on ${other}`)
    );
  });

const overflowing = () => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.body.querySelectorAll("*")]
    .filter((each) => each.getClientRects().length && !each.closest("thead, .skip"))
    .filter((each) => each.getBoundingClientRect().right > width + 0.5)
    .map((each) => `${each.tagName} ${each.className} ${each.getBoundingClientRect().right}`);
  const scrolls = document.documentElement.scrollWidth > width;
  return scrolls ? [`scrolls to ${document.documentElement.scrollWidth} of ${width}`, ...wide] : wide;
};

// Texts that leave their own box, and so cover their neighbours.
const spilling = () =>
  [...document.body.querySelectorAll("th, td, dd, dt, li, p, h1")]
    .filter((each) => each.getClientRects().length && each.scrollWidth > each.clientWidth + 1)
    .filter((each) => !each.closest("thead") || getComputedStyle(each).display === "table-cell")
    .map((each) => `${each.tagName} ${each.textContent.trim().slice(0, 40)}`);

// Cells with more lines than `most`, but for large figures and what has the whole width.
const tallCells = (most) =>
  [...document.querySelectorAll("th, td, dd:not(.figures dd)")]
    .filter((each) => each.getClientRects().length)
    .filter((each) => each.offsetWidth < 0.8 * each.closest("section").clientWidth)
    .map((each) => {
      const content = document.createRange();
      content.selectNodeContents(each);
      const lines = content.getBoundingClientRect().height / parseFloat(getComputedStyle(each).lineHeight);
      return [Math.round(lines), each.textContent.slice(0, 40)];
    })
    .filter(([lines]) => lines > most)
    .map(([lines, text]) => `${lines} lines: ${text}`);

// What only its colour would tell: marks without words beside them, and marks of one shape.
const wordless = () => {
  const marks = [...document.querySelectorAll(".mark")];
  const silent = marks
    .filter((each) => !each.parentElement.textContent.trim())
    .map((each) => `${each.className} without words`);
  const shapes = new Map();
  for (const each of marks) {
    const { borderRadius, clipPath, transform, backgroundColor } = getComputedStyle(each);
    const isHollow = backgroundColor === "rgba(0, 0, 0, 0)";
    shapes.set(each.className, [borderRadius, clipPath, transform, isHollow].join());
  }
  const alike = shapes.size === new Set(shapes.values()).size ? [] : [[...shapes].join(" ")];
  return [...silent, ...alike];
};

const outline = () => {
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map((each) =>
    Number(each.tagName[1])
  );
  const skipped = levels.filter((level, place) => place && level > levels[place - 1] + 1);
  return levels.filter((level) => level === 1).length === 1 && levels[0] === 1 ? skipped : levels;
};

// What is to be read on paper and isn't there, and what is there and is of no use.
const printed = () => {
  const hidden = [...document.querySelectorAll("details *")].filter(
    (each) => !each.checkVisibility({ contentVisibilityAuto: true })
  );
  const useless = [...document.querySelectorAll("nav, .skip")].filter((each) =>
    each.checkVisibility()
  );
  const dark = ground(document.querySelector("h2"));
  const scheme = getComputedStyle(document.documentElement).colorScheme;
  return [
    ...hidden.map((each) => `hidden ${each.tagName}`),
    ...useless.map((each) => `shown ${each.tagName}`),
    ...(luminance(dark) > 0.99 && scheme === "light" ? [] : ["dark"]),
  ];
};

const focused = () => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  const outline = over(parse(style.outlineColor), ground(element.parentElement));
  return {
    target: element.getAttribute("href") ?? element.tagName,
    outlined:
      style.outlineStyle === "solid" &&
      parseFloat(style.outlineWidth) >= 2 &&
      ratio(outline, ground(element.parentElement)) >= 3,
    inView: box.top >= 0 && box.left >= 0 && box.bottom <= innerHeight && box.right <= innerWidth,
  };
};
