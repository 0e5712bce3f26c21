/** Where in the model the decision forms: the targets' similarities after each block, as a plot and in words. */

import { Problem, explain } from "./api.js";
import { byId, make, offer } from "./dom.js";
import { Plot, markFor } from "./plot.js";
import { counted, ordinal } from "./words.js";

// More lines than these cannot be told apart; the table has all targets.
const MOST_LINES = 8;

// Half precision rounds sums of a hundred terms this far.
const LARGEST_ROUNDING = 0.01;

// Nothing is drawn for the report, and the server still knows the forward pass of the heatmaps.
const OUTPUT = { heatmap: "none", overlay: false, regions_threshold: null, layers_report: true };

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {number} index of the target in the request
 * @property {any} report of the target
 *
 * @typedef {object} Quantity a number of each target and block
 * @property {string} title
 * @property {boolean} downwards whether small numbers are at the top
 * @property {(report: any) => number[]} read
 * @property {(value: number) => string} inWords
 */

const MEANING =
  "After each block, the model's own last norm and head read the picture as if that block were the last.";

/** @type {Record<string, Quantity>} */
const QUANTITIES = {
  similarity: {
    title: "Similarity after each block",
    downwards: false,
    read: ({ similarities }) => similarities,
    inWords: (value) => value.toFixed(2),
  },
  rank: {
    title: "Place among the targets after each block",
    downwards: true,
    read: ({ ranks }) => ranks,
    inWords: ordinal,
  },
  effect: {
    title: "Direct effect of each block",
    downwards: false,
    read: ({ direct_effects }) => direct_effects.blocks,
    inWords: (value) => value.toFixed(3),
  },
};

export class LayersPanel {
  constructor() {
    this._panel = byId("layers-report");
    /** @type {import("./results.js").Run[]} */
    this._runs = [];
    /** @type {AbortController|null} */
    this._asking = null;
    this._panel.addEventListener("toggle", () => this._panel.open && !this._asking && this._ask());
  }

  /**
   * Take the runs of a new response; ask about them once the panel is open.
   * @param {import("./results.js").Run[]} runs
   */
  reset(runs) {
    this._asking?.abort();
    this._asking = null;
    // Neither the method nor the explained blocks change the similarities, but TextSpan splits them.
    const kinds = runs.map(({ question: { settings }, answer }) =>
      JSON.stringify([answer.model, settings.size, settings.method === "textspan"]),
    );
    this._runs = runs.filter((_, run) => kinds.indexOf(kinds[run]) === run);
    byId("layers-plots").replaceChildren();
    if (this._panel.open) this._ask();
  }

  async _ask() {
    const current = new AbortController();
    this._asking = current;
    const { signal } = current;
    const status = byId("layers-status");
    status.textContent = "The model is read block by block";
    try {
      const runs = this._runs;
      const answers = await Promise.all(
        runs.map(({ question }) => explain(withoutHeads(question), OUTPUT, { signal })),
      );
      if (signal.aborted) return;
      status.textContent = "";
      const names = runs.length > 1 ? runs.map(({ answer, question }) => nameOf(answer, question)) : [""];
      byId("layers-plots").replaceChildren(
        ...answers.map((answer, run) => new LayersPlot(answer.images[0].targets, names[run], run).element),
      );
    } catch (error) {
      if (signal.aborted) return;
      if (!(error instanceof Problem)) throw error;
      status.textContent = `${error.title}. ${error.message}`;
      // Opening the panel again asks again.
      this._asking = null;
    }
  }
}

/** The report is about the targets, not about heads. @param {import("./api.js").Question} question */
const withoutHeads = (question) => ({ ...question, settings: { ...question.settings, heads: null } });

/** @param {any} answer @param {import("./api.js").Question} question */
function nameOf(answer, { settings }) {
  return [answer.model, settings.method === "textspan" && "TextSpan"].filter(Boolean).join(", ");
}

/** The plot of one response, with its legend and table. */
class LayersPlot {
  /**
   * @param {any[]} targets of a response
   * @param {string} name of the setting; empty if there is one alone
   * @param {number} run
   */
  constructor(targets, name, run) {
    this._lines = targets.map((target, index) => ({
      name: target.prompt ?? target.target,
      index,
      report: target.layers_report,
    }));
    this._blocks = this._lines[0].report.similarities.length;
    this._shown = this._lines
      .toSorted((left, right) => last(left.report.ranks) - last(right.report.ranks))
      .slice(0, MOST_LINES)
      .toSorted((left, right) => left.index - right.index);
    this._frame = make("div", { className: "plot-frame" });
    this._frame.addEventListener("pointermove", (event) => this._point(event));
    this._frame.addEventListener("pointerdown", (event) => this._point(event));
    this._legend = make("ul", { className: "legend" });
    this._slider = make("input", { type: "range", min: "1", max: String(this._blocks), id: `layers-block-${run}` });
    this._slider.value = String(this._blocks);
    this._slider.addEventListener("input", () => this._read());
    this._block = make("output");
    this._block.setAttribute("for", this._slider.id);
    this._choice = make("select", { id: `layers-what-${run}` });
    const known = this._lines[0].report.direct_effects ? ["similarity", "rank", "effect"] : ["similarity", "rank"];
    const kinds = this._lines.length > 1 ? known : known.filter((kind) => kind !== "rank");
    offer(this._choice, kinds.map((kind) => [kind, QUANTITIES[kind].title]));
    this._choice.addEventListener("change", () => this._show());
    this._table = make("div", { className: "scrolled", tabIndex: 0 });
    this._table.setAttribute("role", "region");
    const words = [MEANING, leadInWords(this._lines, this._blocks), ...sumsInWords(this._shown)];
    this.element = make(
      "figure",
      { className: "layers" },
      make("figcaption", {}, ...(name ? [make("h3", {}, name)] : []), ...words.map((each) => make("p", {}, each))),
      make("div", { className: "row" }, make("label", { htmlFor: this._choice.id }, "Show"), this._choice),
      this._frame,
      make("div", { className: "row" }, make("label", { htmlFor: this._slider.id }, "Read at"), this._slider, this._block),
      this._legend,
      ...(this._shown.length < this._lines.length
        ? [make("p", { className: "quiet" }, `The ${MOST_LINES} most similar of ${this._lines.length} are shown; the table has all.`)]
        : []),
      make("details", {}, make("summary", {}, "The numbers as a table"), this._table),
    );
    new ResizeObserver(() => this._show()).observe(this._frame);
  }

  get _quantity() {
    return QUANTITIES[this._choice.value];
  }

  /** Draw the chosen numbers, as wide as there is room. */
  _show() {
    const { title, read, downwards } = this._quantity;
    const names = this._shown.map(({ name }) => name).join(", ");
    this._plot = new Plot(
      this._shown.map(({ index, report }) => ({ index, values: read(report) })),
      this._frame.clientWidth || 1,
      {
        places: "Block",
        description: `Line plot: ${title.toLowerCase()}, for ${names}. Its numbers are in the table below.`,
        downwards,
      },
    );
    this._frame.replaceChildren(this._plot.element);
    this._fillTable();
    this._read();
  }

  /** @param {PointerEvent} event */
  _point(event) {
    this._slider.value = String(this._plot?.placeAt(event));
    this._read();
  }

  /** Show the numbers at the chosen block. */
  _read() {
    const { read, inWords } = this._quantity;
    const place = Number(this._slider.value);
    const values = this._shown.map(({ report }) => inWords(read(report)[place - 1]));
    this._plot?.mark(place);
    this._block.textContent = `Block ${place} of ${this._blocks}`;
    const spoken = this._shown.map(({ name }, line) => `${name} ${values[line]}`);
    this._slider.setAttribute("aria-valuetext", `Block ${place}: ${spoken.join(", ")}`);
    this._legend.replaceChildren(
      ...this._shown.map(({ name, index }, line) =>
        make("li", {}, markFor(index), make("span", {}, name), make("strong", {}, values[line])),
      ),
    );
  }

  _fillTable() {
    const { title, read, inWords } = this._quantity;
    const heads = this._lines.map(({ name }) => make("th", { scope: "col" }, name));
    const rows = Array.from({ length: this._blocks }, (_, block) =>
      make(
        "tr",
        {},
        make("th", { scope: "row" }, String(block + 1)),
        ...this._lines.map(({ report }) => make("td", {}, inWords(read(report)[block]))),
      ),
    );
    this._table.setAttribute("aria-label", `${title}, a table`);
    this._table.replaceChildren(
      make(
        "table",
        {},
        make("caption", {}, title),
        make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "Block"), ...heads)),
        make("tbody", {}, ...rows),
      ),
    );
  }
}

/** Say from which block on the most similar target leads. @param {Line[]} lines @param {number} blocks */
function leadInWords(lines, blocks) {
  const leader = lines.find(({ report }) => last(report.ranks) === 1);
  if (!leader || lines.length < 2) {
    const { name, report } = lines[0];
    const highest = report.similarities.indexOf(Math.max(...report.similarities)) + 1;
    return `The similarity of ${name} is highest after block ${highest} of ${blocks}.`;
  }
  const behind = leader.report.ranks.findLastIndex((/** @type {number} */ rank) => rank !== 1);
  const name = `The most similar in the end is ${leader.name}`;
  if (behind < 0) return `${name}. It leads after every one of the ${counted(blocks, "block")}.`;
  return `${name}. It leads from block ${behind + 2} of ${blocks} on.`;
}

/** Say whether the direct effects add up to the similarities. @param {Line[]} lines */
function sumsInWords(lines) {
  if (!lines[0].report.direct_effects) return [];
  const sums = lines.map(({ name, report }) => `${report.direct_effects.sum.toFixed(3)} for ${name}`);
  const gap = Math.max(...lines.map(({ report }) => Math.abs(report.direct_effects.gap)));
  const check = gap < LARGEST_ROUNDING
    ? "the served similarities, but for rounding"
    : `which misses the served similarities by up to ${gap.toPrecision(1)}`;
  return [`The direct effects of all blocks, the input and the last biases add up to ${sums.join(", ")}: ${check}.`];
}

/** @param {number[]} values */
const last = (values) => values[values.length - 1];
