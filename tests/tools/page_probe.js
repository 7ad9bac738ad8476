/* SPDX-License-Identifier: MIT */
/*
 * Looks at a page of tools/report from inside a browser and leaves what it finds wrong as JSON in an element `found`:
 * what is wider than the window, writing outside of its plot or over other writing, shapes whose class has no colour,
 * and text with less contrast than 4.5 (WCAG 2.1, 1.4.3). Part of test_report.py.
 */
const found = [];
const say = (what, node) => found.push(`${what}: ${(node.textContent || node.outerHTML).trim().slice(0, 60)}`);
const CLEAR = "rgba(0, 0, 0, 0)", BLACK = "rgb(0, 0, 0)";

for (const folded of document.querySelectorAll("details"))
	folded.open = true;

if (document.documentElement.scrollWidth > innerWidth)
	found.push("the page is wider than its window");

const inside = (box, frame) => box.left >= frame.left - 1 && box.right <= frame.right + 1 &&
			       box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1;
const apart = (a, b) => a.right <= b.left + 1 || b.right <= a.left + 1 || a.bottom <= b.top + 2 || b.bottom <= a.top + 2;

const plots = [...document.querySelectorAll("svg")];
for (const plot of plots) {
	const frame = plot.getBoundingClientRect();
	const texts = [...plot.querySelectorAll("text")];
	const boxes = texts.map(text => text.getBoundingClientRect());

	if (frame.width < 300 || frame.height < 40)
		say("a plot without room", plot);
	boxes.forEach((box, at) => {
		if (!inside(box, frame))
			say("outside of its plot", texts[at]);
		if (boxes.slice(0, at).some(other => !apart(box, other)))
			say("over other writing", texts[at]);
	});
}

const shapes = [...document.querySelectorAll("svg rect, .legend i")];
for (const shape of shapes) {
	const style = getComputedStyle(shape);
	if ([BLACK, CLEAR].includes(shape.localName === "rect" ? style.fill : style.backgroundColor))
		say("without a colour", shape);
}

/* Relative luminance and contrast as WCAG 2.1 defines them. */
const linear = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
function luminance(colour)
{
	const [red, green, blue] = colour.match(/[\d.]+/g).map(value => linear(value / 255));
	return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function behind(node)
{
	for (; node; node = node.parentElement) {
		const colour = getComputedStyle(node).backgroundColor;
		if (colour !== CLEAR)
			return colour;
	}
	return "rgb(255, 255, 255)";
}

for (const node of document.querySelectorAll("h1, h2, p, a, th, td, .badge, figcaption, svg text")) {
	const style = getComputedStyle(node);
	const pair = [luminance(node.localName === "text" ? style.fill : style.color), luminance(behind(node))];
	if ((Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05) < 4.5)
		say("too faint", node);
}

const result = document.createElement("pre");
result.id = "found";
result.textContent = JSON.stringify({ found, plots: plots.length, shapes: shapes.length, width: innerWidth,
				      dark: matchMedia("(prefers-color-scheme: dark)").matches });
document.body.append(result);
