// Embeds pictures with examples/clients/browser/index.html in headless Chromium, as a person would use the page:
//   node browser_side.mjs PAGE_FOLDER MODEL.onnx PICTURES_FOLDER EMBEDDINGS.f32 [SCREENSHOT.png]
// Run in a folder that has node_modules. The page is served with onnxruntime-web's files as its `dist`.
import { createReadStream, existsSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, resolve } from "node:path";
import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [pages, model, pictures, target, screenshot] = process.argv.slice(2);
const KINDS = { ".html": "text/html", ".mjs": "text/javascript", ".wasm": "application/wasm" };
const server = createServer((request, response) => {
  const name = request.url === "/" ? "/index.html" : request.url;
  const file = name.startsWith("/dist/") ? resolve(join("node_modules/onnxruntime-web", name)) : join(pages, name);
  if (name.includes("..") || !existsSync(file)) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": KINDS[extname(file)] ?? "application/octet-stream" });
  return createReadStream(file).pipe(response);
});
await new Promise((done) => server.listen(0, "127.0.0.1", done));
const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM || (await chromium.executablePath()),
  args: [...chromium.args, "--no-sandbox"],
  headless: "shell",
});
try {
  const page = await browser.newPage();
  page.on("pageerror", (error) => console.error(error.message));
  await page.goto(`http://127.0.0.1:${server.address().port}/`);
  const upload = async (id, file) => await (await page.$(`#${id}`)).uploadFile(file);
  const found = [], files = readdirSync(pictures).sort().map((name) => resolve(pictures, name));
  // What was chosen before has been dealt with: otherwise a late change would answer for the next pictures.
  const settle = () => page.evaluate(() => window.settled());
  await upload("model", resolve(model));
  await settle();
  // Two pictures at a time: the page's sentence comes once both are embedded.
  for (let i = 0; i < files.length; i += 2) {
    await page.evaluate(() => {
      document.getElementById("result").textContent = "";
      delete window.embeddings.first;
      delete window.embeddings.second;
    });
    await upload("first", files[i]);
    await upload("second", files[i + 1]);
    await page.waitForFunction(() => document.getElementById("result").textContent !== "", { timeout: 120000 });
    await settle();
    const said = await page.$eval("#result", (output) => output.textContent);
    if (!said.startsWith("Cosine similarity: ")) throw new Error(said);
    const both = await page.evaluate(() => [...window.embeddings.first, ...window.embeddings.second]);
    found.push(Buffer.from(new Float32Array(both).buffer));
  }
  writeFileSync(target, Buffer.concat(found));
  if (screenshot) await page.screenshot({ path: screenshot });
  console.log(JSON.stringify({ version: await browser.version() }));
} finally {
  await browser.close();
  server.close();
}
