// Explain a picture with a running server: node examples/clients/explain.mjs PICTURE PROMPT...
import { readFile, writeFile } from "node:fs/promises";

const DEADLINE_MS = 60_000;

const [picture, ...prompts] = process.argv.slice(2);
if (prompts.length === 0) {
  console.error("usage: node explain.mjs PICTURE PROMPT...");
  process.exit(2);
}
const form = new FormData();
form.append("image", new Blob([await readFile(picture)]), "picture");
for (const prompt of prompts) form.append("prompts", prompt);

const url = process.env.LEGRAD_URL ?? "http://localhost:8000";
const answer = await explain(form);
for (const { target, similarity, overlay, overlay_type } of answer.images[0].targets) {
  console.log(`${target}: ${similarity.toFixed(3)}`);
  // image/jpeg, unless the request asks for another format.
  await writeFile(`${target.replaceAll("/", " ")}.${overlay_type.split("/")[1]}`, Buffer.from(overlay, "base64"));
}

/** Send the form, and again while the server is busy (429) or not ready (503). */
async function explain(body) {
  const deadline = Date.now() + DEADLINE_MS;
  for (;;) {
    const response = await fetch(`${url}/explain`, { method: "POST", body });
    if (response.ok) return response.json();
    const problem = await response.json().catch(() => ({ title: `status ${response.status}` }));
    // With a random part, so that clients that were refused together do not return together.
    const wait = 1000 * (Number(response.headers.get("Retry-After")) || 1) + 500 * Math.random();
    const passing = [429, 503].includes(response.status) && Date.now() + wait < deadline;
    if (!passing) throw new Error(`${problem.title}: ${problem.detail ?? ""}`);
    await new Promise((resolve) => setTimeout(resolve, wait));
  }
}
