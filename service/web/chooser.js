/** The chosen picture: its preview, and the message about a file that is no picture. */

import { Problem } from "./api.js";
import { byId } from "./dom.js";
import { listenForPictures, openExample, openPicture } from "./picture.js";
import { tell } from "./status.js";
import { adviceFor } from "./words.js";

/** @typedef {import("./picture.js").Picture} Picture */

export class PictureChooser {
  /** @param {() => string} chosen called once a person has chosen a picture of their own; returns further news */
  constructor(chosen) {
    this._chosen = chosen;
    /** @type {Picture|null} */
    this._picture = null;
    /** The picture and its description before a file that is none was chosen. @type {[Picture, string]|null} */
    this._before = null;
    /** Counts the choices: a picture that is read slowly must not replace a later one. */
    this._turn = 0;
    /** @type {Promise<void>} */
    this._reading = Promise.resolve();
    listenForPictures(byId("file"), byId("drop"), (/** @type {File[]} */ files) => {
      this._reading = this._choose(files);
    });
    byId("picture-back").addEventListener("click", () => {
      if (this._before) this._show(...this._before);
      byId("file").focus();
    });
  }

  /** The picture to explain, or null; a file that is still being read is waited for. */
  async current() {
    await this._reading;
    return this._picture;
  }

  /** @param {any} example @returns {Promise<boolean>} whether no other picture was chosen meanwhile */
  async take(example) {
    this._turn += 1;
    const turn = this._turn;
    const picture = await openExample(example);
    if (turn !== this._turn) return false;
    this._show(picture, example.alt);
    return true;
  }

  /** Say that a picture is missing, where one is chosen. */
  askForOne() {
    if (byId("picture-problem").hidden) this._refuse("Choose a picture first.");
    byId("file").focus();
    tell(byId("picture-problem-text").textContent);
  }

  /** @param {File[]} files */
  async _choose(files) {
    this._turn += 1;
    const turn = this._turn;
    const [file] = files;
    const name = file.name || "picture.png";
    byId("picture-name").textContent = `Reading ${name}`;
    let picture;
    try {
      picture = await openPicture(file, name);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (turn !== this._turn) return;
      this._forget();
      this._refuse(`${error.message} ${adviceFor(error)}`);
      byId("drop").scrollIntoView({ block: "nearest" });
      tell(byId("picture-problem-text").textContent);
      return;
    }
    if (turn !== this._turn) return;
    this._show(picture, "The chosen picture");
    const others = files.length > 1 ? `, the first of ${files.length} files` : "";
    byId("picture-name").textContent += others;
    tell(`${name} is chosen${others}. ${this._chosen()}`);
  }

  /** @param {Picture} picture @param {string} description */
  _show(picture, description) {
    this._picture = picture;
    this._before = [picture, description];
    const preview = byId("preview");
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(picture.blob);
    preview.alt = description;
    preview.hidden = false;
    const { width, height } = picture.bitmap;
    byId("picture-name").textContent = `${picture.name}, ${width} × ${height}`;
    byId("picture-problem").hidden = true;
  }

  /** Leave no picture chosen, so that an earlier one is not explained in place of a refused file. */
  _forget() {
    this._picture = null;
    byId("preview").hidden = true;
    byId("picture-name").textContent = "No picture is chosen.";
  }

  /** @param {string} reason */
  _refuse(reason) {
    byId("picture-problem-text").textContent = reason;
    byId("picture-problem").hidden = false;
    const back = byId("picture-back");
    back.hidden = this._before === null;
    back.textContent = `Keep ${this._before?.[0].name}`;
  }
}
