// Embeds faces with examples/clients/onnxruntime_web.mjs, in node:
//   node node_side.mjs CLIENT.mjs MODEL.onnx FACES.rgb EMBEDDINGS.f32 BATCHES(1,2,5) SECONDS
// Run in a folder that has node_modules. Prints one line of JSON: images a second of processor time, one at a time.
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [client, model, faces, target, batches, seconds] = process.argv.slice(2);
const { openModel } = await import(pathToFileURL(client));
const embed = await openModel(model);
const bytes = new Uint8Array(readFileSync(faces)), one = 112 * 112 * 3;

// All sizes of batches in one opened model, until each face was in one.
const found = [], sizes = batches.split(",").map(Number);
for (let done = 0; done * one < bytes.length; ) {
  const size = sizes[Math.min(found.length, sizes.length - 1)];
  found.push(Buffer.from(new Float32Array(await embed(bytes.subarray(done * one, (done + size) * one))).buffer));
  done += size;
}
writeFileSync(target, Buffer.concat(found));

// One at a time, by the processor's time, which other programs do not lengthen.
// The first second goes to compiling WebAssembly once more, better, beside the work.
let start = process.cpuUsage(), count = 0;
const used = () => Object.values(process.cpuUsage(start)).reduce((a, b) => a + b) / 1e6;
while (used() < 2) await embed(bytes.subarray(0, one));
start = process.cpuUsage();
for (; used() < Number(seconds); count++) await embed(bytes.subarray(0, one));
console.log(JSON.stringify({ images_per_second: count / used() }));
