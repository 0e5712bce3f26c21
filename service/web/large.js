/** A large view of one card's picture, from the whole of it to single pixels. */

import { byId } from "./dom.js";
import { MOST_PIXELS } from "./heatmap.js";
import { View } from "./view.js";

// Screen pixels for each pixel of the picture, beside the scale that fits the window.
const SCALES = [0.25, 0.5, 1, 2, 4, 8, 16];

export class LargeView {
  constructor() {
    this._dialog = byId("large");
    this._stage = byId("large-stage");
    this._scale = 1;
    this._fitted = true;
    /** @type {View|null} */
    this._view = null;
    /** Draws the view again. */
    this._draw = () => {};
    byId("large-close").addEventListener("click", () => this._dialog.close());
    byId("zoom-in").addEventListener("click", () => this._zoom(1));
    byId("zoom-out").addEventListener("click", () => this._zoom(-1));
    byId("zoom-fit").addEventListener("click", () => this._fit());
    this._dialog.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => this._typed(event));
    this._dialog.addEventListener("close", () => {
      this._stage.replaceChildren();
      this._view = null;
    });
    this._stage.addEventListener("wheel", (/** @type {WheelEvent} */ event) => {
      // A pinch on a touchpad is a wheel with Ctrl.
      if (!event.ctrlKey) return;
      event.preventDefault();
      this._zoom(event.deltaY < 0 ? 1 : -1, event);
    }, { passive: false });
    this._stage.addEventListener("scroll", () => this._see());
    addEventListener("resize", () => this._view && (this._fitted ? this._fit() : this._draw()));
  }

  /**
   * @param {import("./card.js").Card} card
   * @param {import("./heatmap.js").Look} look
   * @param {import("./colours.js").Colours} colours
   * @param {number} share of the width that shows the first of two maps
   * @param {(share: number) => void} divided called when the divider is moved
   */
  open({ maps }, look, colours, share, divided) {
    const { width, height } = maps[0].size;
    const shrunk = Math.min(1, Math.sqrt(MOST_PIXELS / (width * height)));
    const size = { width: Math.round(width * shrunk), height: Math.round(height * shrunk) };
    const view = new View(maps, size, (moved) => {
      share = moved;
      divided(moved);
      this._draw();
    });
    this._view = view;
    this._size = maps[0].size;
    this._draw = () => view.draw(look, colours, share);
    byId("large-title").textContent = maps[0].prompt;
    byId("large-setting").textContent = maps.length > 1 ? "" : maps[0].setting;
    this._listen(view);
    this._stage.replaceChildren(view.element);
    this._dialog.showModal();
    view.focus();
    this._fit();
    this._read();
  }

  /** @param {View} view */
  _listen(view) {
    const { reader } = view;
    for (const kind of ["pointermove", "pointerdown", "keydown", "focus", "blur", "pointerleave"]) {
      reader.addEventListener(kind, () => this._read());
    }
    reader.addEventListener("dblclick", (event) => this._zoom(1, event));
    reader.addEventListener("pointermove", (event) => {
      // A finger scrolls by itself.
      if (event.pointerType !== "mouse" || !(event.buttons & 1)) return;
      this._stage.scrollLeft -= event.movementX;
      this._stage.scrollTop -= event.movementY;
    });
  }

  /** Tell the point that is read, and its value. */
  _read() {
    const point = this._view?.point;
    byId("large-point").textContent = point
      ? `${this._view?.value} at ${point.x}, ${point.y}`
      : matchMedia("(hover: none)").matches
        ? "Touch a place to read its value."
        : "Point to a place or use the arrow keys to read its value; + and − zoom, 0 fits, Escape closes.";
  }

  /** @param {KeyboardEvent} event */
  _typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "+" || event.key === "=") this._zoom(1);
    else if (event.key === "-") this._zoom(-1);
    else if (event.key === "0") this._fit();
    else return;
    event.preventDefault();
  }

  /** The scale at which the whole picture fits. */
  get _whole() {
    const { width, height } = /** @type {{width: number, height: number}} */ (this._size);
    return Math.min(this._stage.clientWidth / width, this._stage.clientHeight / height);
  }

  _fit() {
    this._fitted = true;
    // Without the scroll bars of a larger picture.
    this._resize(0);
    this._resize(this._whole);
  }

  /** Go to the next larger or smaller scale. @param {1|-1} direction @param {{clientX: number, clientY: number}} [place] that stays */
  _zoom(direction, place) {
    if (!this._view) return;
    const next = direction > 0
      ? SCALES.find((scale) => scale > 1.01 * this._scale)
      : SCALES.findLast((scale) => scale < 0.99 * this._scale);
    if (direction < 0 && (next === undefined || next <= this._whole)) {
      this._fit();
      return;
    }
    if (next === undefined) return;
    this._fitted = false;
    const box = this._stage.getBoundingClientRect();
    const kept = place ?? this._placeRead() ?? {
      clientX: box.left + box.width / 2,
      clientY: box.top + box.height / 2,
    };
    const before = this._view.canvas.getBoundingClientRect();
    const across = (kept.clientX - before.left) / before.width;
    const down = (kept.clientY - before.top) / before.height;
    this._resize(next);
    const after = this._view.canvas.getBoundingClientRect();
    this._stage.scrollLeft += after.left + across * after.width - kept.clientX;
    this._stage.scrollTop += after.top + down * after.height - kept.clientY;
  }

  /** The place in the window of the point that is read, or null. */
  _placeRead() {
    const point = this._view?.point;
    if (!this._view || !point) return null;
    const box = this._view.canvas.getBoundingClientRect();
    return {
      clientX: box.left + (point.x + 0.5) * this._scale,
      clientY: box.top + (point.y + 0.5) * this._scale,
    };
  }

  /** @param {number} scale */
  _resize(scale) {
    if (!this._view) return;
    const { width } = /** @type {{width: number, height: number}} */ (this._size);
    this._scale = scale;
    this._view.element.style.width = `${scale * width}px`;
    // Single pixels are seen as squares.
    this._view.element.classList.toggle("pixels", scale >= 2);
    byId("zoom-value").textContent = `${Math.round(100 * scale)} %`;
    byId("zoom-in").disabled = scale >= SCALES[SCALES.length - 1];
    byId("zoom-out").disabled = this._fitted;
    if (!scale) return;
    this._draw();
    this._see();
  }

  /** Tell the view which part of it is seen. */
  _see() {
    const { scrollLeft, scrollTop, clientWidth, clientHeight } = this._stage;
    const { clientWidth: width = 0, clientHeight: height = 0 } = this._view?.element ?? {};
    this._view?.see({
      left: scrollLeft,
      top: scrollTop,
      width: Math.min(width, clientWidth),
      height: Math.min(height, clientHeight),
    });
  }
}
