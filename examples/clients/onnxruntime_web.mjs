// Embeds aligned faces with onnxruntime-web: in node, or bundled for a browser.
import * as ort from "onnxruntime-web";

const MEAN = 127.5, STD = 127.5; // those of the network: `facekd describe model.onnx` prints them

// Resolves to a function from faces, RGB bytes of N images one behind the other, to embeddings, Float32Array (N * D).
export async function openModel(model, threads = 1) {
  ort.env.wasm.numThreads = threads;
  const session = await ort.InferenceSession.create(model); // a path (node), an address (browser) or the file's bytes
  const { type, shape } = session.inputMetadata[0]; // of a file that takes pixels: uint8, (N, S, S, 3) or (N, 3, S, S)
  const isLast = shape[3] === 3, size = shape[2], pixels = size * size;

  return async (faces) => {
    const count = faces.length / (3 * pixels);
    const x = type === "uint8" ? new Uint8Array(faces.length) : new Float32Array(faces.length);
    for (let image = 0; image < count; image++)
      for (let pixel = 0; pixel < pixels; pixel++)
        for (let channel = 0; channel < 3; channel++) {
          const from = (image * pixels + pixel) * 3 + channel;
          const to = isLast ? from : (image * 3 + channel) * pixels + pixel;
          x[to] = type === "uint8" ? faces[from] : (faces[from] - MEAN) / STD;
        }
    const images = new ort.Tensor(type, x, isLast ? [count, size, size, 3] : [count, 3, size, size]);
    return (await session.run({ images })).embedding.data;
  };
}
