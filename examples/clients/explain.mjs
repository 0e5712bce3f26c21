// Explain a picture with a running server: node examples/clients/explain.mjs PICTURE PROMPT...
import { readFile, writeFile } from "node:fs/promises";

const [picture, ...prompts] = process.argv.slice(2);
if (prompts.length === 0) {
  console.error("usage: node explain.mjs PICTURE PROMPT...");
  process.exit(2);
}
const form = new FormData();
form.append("image", new Blob([await readFile(picture)]), "picture");
for (const prompt of prompts) form.append("prompts", prompt);

const url = process.env.LEGRAD_URL ?? "http://localhost:8000";
const response = await fetch(`${url}/explain`, { method: "POST", body: form });
const answer = await response.json();
if (!response.ok) throw new Error(`${answer.title}: ${answer.detail}`);

for (const { target, similarity, overlay } of answer.images[0].targets) {
  console.log(`${target}: ${similarity.toFixed(3)}`);
  await writeFile(`${target}.png`, Buffer.from(overlay, "base64"));
}
