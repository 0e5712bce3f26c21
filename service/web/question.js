/** What to look for: prompts, or classes if the model is asked about classes. */

import { Problem } from "./api.js";
import { Chips } from "./chips.js";
import { ClassPicker } from "./classes.js";
import { byId } from "./dom.js";
import { tell } from "./status.js";

/** Whether a model is asked about its classes; one that was never loaded is taken for a text model. @param {any} model */
const asksClasses = (model) => model?.templates?.length === 0;

/** @param {string} noun */
const onlyOne = (noun) =>
  `A heatmap for each head takes one ${noun}: remove the others, or choose the mean of all heads.`;

export class QuestionForm {
  /** @param {(error: unknown) => void} failed */
  constructor(failed) {
    const news = (/** @type {string} */ text) => {
      byId("chips-news").textContent = text;
      byId("question-problem").hidden = true;
    };
    this._chips = new Chips(byId("chips"), byId("prompt"), news);
    this._picker = new ClassPicker(news, failed);
    this._classes = false;
    byId("kept-clear").addEventListener("click", () => {
      this._chips.clear();
      this._picker.clear();
      this._keep(0);
      this.focus();
    });
  }

  /** Ask for what a model can be asked about. @param {any} model its entry of /models */
  describe(model) {
    this._classes = asksClasses(model);
    byId("words").hidden = this._classes;
    byId("classes").hidden = !this._classes;
    byId("question-problem").hidden = true;
    if (this._classes) this._picker.offer(model);
  }

  /** @param {string[]} prompts */
  showExample(prompts) {
    this._chips.showExample(prompts);
    this._keep(0);
  }

  /** Drop what belongs to the picture before. @returns {string} news about what is kept */
  pictureChanged() {
    const own = this._chips.dropExample().length;
    this._keep(this._classes ? this._picker.chosen.length : own);
    return byId("kept-text").textContent;
  }

  /** Wait for a class that is being chosen. */
  settled() {
    return this._picker.settled();
  }

  /**
   * Return prompts and targets for a model; null after saying what is missing.
   * @param {any} model its entry of /models
   * @param {string|null} heads "each" if each head has a heatmap, which takes a single prompt or class
   * @returns {{prompts: string[], targets: object[]}|null}
   * @throws {Problem} the model is asked about something else
   */
  read(model, heads) {
    this._keep(0);
    if (asksClasses(model) !== this._classes) {
      throw new Problem({
        title: "The two models are asked different questions",
        detail: "One is asked about words and the other about its classes.",
        error: "incomplete",
      });
    }
    if (!this._classes) {
      const { prompts } = this._chips;
      if (!prompts.length) return this._miss("Say what to look for first.");
      if (heads && prompts.length > 1) return this._miss(onlyOne("prompt"));
      return { prompts, targets: [] };
    }
    const { pending, chosen } = this._picker;
    if (pending) return this._miss(`Choose a class for "${pending}" from the list, or clear the field.`);
    if (!chosen.length) {
      return this._miss(model.classes ? "Choose a class first." : byId("class-help").textContent);
    }
    if (heads && chosen.length > 1) return this._miss(onlyOne("class"));
    // Another model may have the same classes in another order.
    const own = this._picker.model === model.id;
    const targets = chosen.map(({ index, label }) =>
      own || label === null ? { type: "class", index } : { type: "class", label },
    );
    return { prompts: [], targets };
  }

  focus() {
    if (this._classes) this._picker.focus();
    else byId("prompt").focus();
  }

  /** @param {string} reason */
  _miss(reason) {
    byId("question-problem").textContent = reason;
    byId("question-problem").hidden = false;
    this.focus();
    byId("question-problem").scrollIntoView({ block: "nearest" });
    tell(reason);
    return null;
  }

  /** Say how many prompts or classes of the picture before are kept. @param {number} count */
  _keep(count) {
    const noun = this._classes ? "classes" : "prompts";
    byId("kept").hidden = !count;
    byId("kept-text").textContent = count ? `Your ${noun} are kept for the new picture.` : "";
  }
}
