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
  const check = (element, text, style) => {
    const below = ground(element);
    const found = ratio(over(parse(style.color), below), below);
    if (found < least) faint.push(`${found.toFixed(2)} ${text.trim().slice(0, 40)}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (texts.nextNode()) {
    const { data, parentElement } = texts.currentNode;
    if (!data.trim() || parentElement.closest("style")) continue;
    seen += 1;
    check(parentElement, data, getComputedStyle(parentElement));
  }
  for (const element of document.querySelectorAll("td")) {
    const label = getComputedStyle(element, "::before");
    if (label.content !== "none") check(element, label.content, label);
  }
  return seen > 30 ? faint : [`only ${seen} texts`];
};

const overflowing = () => {
  const width = document.documentElement.clientWidth;
  const wide = [...document.body.querySelectorAll("*")]
    .filter((each) => each.getClientRects().length && !each.closest("thead, .skip"))
    .filter((each) => each.getBoundingClientRect().right > width + 0.5)
    .map((each) => `${each.tagName} ${each.className} ${each.getBoundingClientRect().right}`);
  const scrolls = document.documentElement.scrollWidth > width;
  return scrolls ? [`scrolls to ${document.documentElement.scrollWidth} of ${width}`, ...wide] : wide;
};

const focused = () => {
  const element = document.activeElement;
  const style = getComputedStyle(element);
  const box = element.getBoundingClientRect();
  const outline = over(parse(style.outlineColor), ground(element.parentElement));
  return {
    target: element.getAttribute("href"),
    outlined:
      style.outlineStyle === "solid" &&
      parseFloat(style.outlineWidth) >= 2 &&
      ratio(outline, ground(element.parentElement)) >= 3,
    inView: box.top >= 0 && box.left >= 0 && box.bottom <= innerHeight && box.right <= innerWidth,
  };
};
