/** Messages about progress and errors. */

import { Problem } from "./api.js";
import { byId } from "./dom.js";
import { adviceFor, progressInWords, seconds } from "./words.js";

const MOST_RETRIES = 20;

/** Announce news to screen readers. @param {string} news */
export function tell(news) {
  // While a dialog is open, the rest of the page is silent.
  const place = document.querySelector("dialog[open] .news") ?? byId("news");
  place.textContent = news;
}

/** The message that a request is in progress. */
export class Waiting {
  constructor() {
    this._said = "";
  }

  show() {
    this._said = "";
    byId("waiting-text").textContent = "Sending the picture";
    byId("waiting").hidden = false;
    byId("result").setAttribute("aria-busy", "true");
  }

  /** @param {any} progress a response of /explain/{id}/progress */
  update(progress) {
    const words = progressInWords(progress);
    byId("waiting-text").textContent = words;
    // Only a new stage or position is announced: the estimate changes all the time.
    const news = `${progress.stage} ${progress.position ?? ""}`;
    if (news !== this._said) tell(words);
    this._said = news;
  }

  hide() {
    byId("waiting").hidden = true;
    byId("result").removeAttribute("aria-busy");
  }
}

/** The message about an error; retries after the time that the server names. */
export class Trouble {
  /** @param {() => void} retry */
  constructor(retry) {
    this._retry = retry;
    this._tries = 0;
    /** @type {number|undefined} */
    this._timer = undefined;
    byId("retry").addEventListener("click", () => this._again());
    byId("stop-retry").addEventListener("click", () => this._giveUp());
  }

  /** Forget earlier errors and retries. */
  reset() {
    this._tries = 0;
    this.hide();
  }

  hide() {
    clearInterval(this._timer);
    byId("problem").hidden = true;
  }

  /** @param {unknown} error @param {boolean} [canRetry] */
  show(error, canRetry = true) {
    if (!(error instanceof Problem)) throw error;
    clearInterval(this._timer);
    this._problem = error;
    byId("problem-title").textContent = error.title;
    byId("problem-detail").textContent = error.message;
    byId("problem-advice").textContent = adviceFor(error);
    byId("problem-id").textContent = error.requestId && `Request ${error.requestId}`;
    byId("retry").hidden = !canRetry;
    byId("stop-retry").hidden = true;
    byId("problem").hidden = false;
    byId("problem").scrollIntoView({ block: "nearest" });
    tell(`${error.title}. ${error.message} ${byId("problem-advice").textContent}`);
    const passing = [429, 503].includes(error.status) && error.retryAfter !== null;
    if (canRetry && passing && this._tries < MOST_RETRIES) this._countDown(Number(error.retryAfter));
  }

  /** @param {number} left seconds */
  _countDown(left) {
    const words = () => `Trying again by itself in ${seconds(left)}.`;
    byId("problem-advice").textContent = words();
    byId("stop-retry").hidden = false;
    tell(`${this._problem?.title}. ${words()}`);
    this._timer = setInterval(() => {
      left -= 1;
      if (left > 0) byId("problem-advice").textContent = words();
      else this._again();
    }, 1000);
  }

  _again() {
    this._tries += 1;
    this.hide();
    this._retry();
  }

  _giveUp() {
    clearInterval(this._timer);
    byId("stop-retry").hidden = true;
    byId("problem-advice").textContent = "Try again when you like.";
    byId("retry").focus();
  }
}
