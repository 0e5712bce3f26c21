/** Helpers for the document. */

/**
 * Return the element of index.html with this id.
 * @param {string} id
 * @returns {any}
 */
export function byId(id) {
  return /** @type {HTMLElement} */ (document.getElementById(id));
}

/**
 * @template {keyof HTMLElementTagNameMap} Name
 * @param {Name} name
 * @param {Partial<HTMLElementTagNameMap[Name]>} [properties]
 * @param {...(Node|string)} children
 * @returns {HTMLElementTagNameMap[Name]}
 */
export function make(name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
}

/**
 * Fill a list of choices and keep the selected one if it is still offered.
 * @param {HTMLSelectElement} select
 * @param {[string, string][]} choices value and text
 */
export function offer(select, choices) {
  const before = select.value;
  select.replaceChildren(...choices.map(([value, text]) => make("option", { value }, text)));
  if (choices.some(([value]) => value === before)) select.value = before;
}

/** Download a file. @param {Blob} blob @param {string} name */
export function save(blob, name) {
  const address = URL.createObjectURL(blob);
  make("a", { href: address, download: name }).click();
  // Later, because the download starts after this task.
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
