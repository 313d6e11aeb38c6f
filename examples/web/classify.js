// Classifies photographs with a file from `keras_nasnet.export_tflite`, in the
// browser: nothing is uploaded.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";

const MODEL = new URLSearchParams(location.search).get("model") ?? "model.tflite";
const WASM = "node_modules/@litertjs/core/wasm/";
const SMALL_IMAGE = 64; // Networks for larger ones see 7/8 of the image.
const status = document.getElementById("status");

// The names of the classes are an uncompressed file in a zip archive behind
// the model.
function readLabels(buffer) {
  const view = new DataView(buffer);
  const text = (start, length) =>
    new TextDecoder().decode(new Uint8Array(buffer, start, length));
  let end = buffer.byteLength - 22;
  while (end > 0 && view.getUint32(end, true) !== 0x06054b50) end--;
  if (end <= 0) return [];
  const directorySize = view.getUint32(end + 12, true);
  const directory = end - directorySize;
  // Offsets in the archive count from its own beginning or from the file's.
  const shift = directory - view.getUint32(end + 16, true);
  const size = view.getUint32(directory + 24, true);
  const header = shift + view.getUint32(directory + 42, true);
  const nameLength = view.getUint16(header + 26, true);
  const extraLength = view.getUint16(header + 28, true);
  return text(header + 30 + nameLength + extraLength, size).trimEnd().split("\n");
}

function readPixels(image, height, width) {
  const crop = Math.max(height, width) <= SMALL_IMAGE ? 1 : 0.875;
  const side = Math.min(image.width, image.height) * crop;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white"; // behind transparent images
  context.fillRect(0, 0, width, height);
  context.drawImage(
    image, (image.width - side) / 2, (image.height - side) / 2, side, side,
    0, 0, width, height,
  );
  const { data } = context.getImageData(0, 0, width, height);
  return data.filter((_, i) => i % 4 !== 3); // without alpha
}

function show(probabilities, labels) {
  const best = [...probabilities.keys()]
    .sort((a, b) => probabilities[b] - probabilities[a])
    .slice(0, 5);
  const rows = best.map((i) => {
    const row = document.createElement("tr");
    const percent = `${(100 * probabilities[i]).toFixed(1)} %`;
    row.innerHTML = "<td></td><td><div class=bar></div></td><td></td>";
    row.cells[0].textContent = labels[i] ?? `class ${i}`;
    row.querySelector(".bar").style.width = percent.replace(" ", "");
    row.cells[2].textContent = percent;
    return row;
  });
  document.getElementById("answers").replaceChildren(...rows);
}

async function classify(model, labels, file) {
  const image = await createImageBitmap(file);
  const [{ shape, dtype }] = model.getInputDetails();
  const [, height, width] = shape;
  const pixels = readPixels(image, height, width);
  // A file with uint8 input takes pixels as they are.
  const values = dtype === "uint8"
    ? Uint8Array.from(pixels)
    : Float32Array.from(pixels, (p) => p / 127.5 - 1);
  const start = performance.now();
  const input = new Tensor(values, [...shape]);
  const [output] = await model.run(input);
  const scores = Array.from(output.toTypedArray());
  const time = performance.now() - start;
  input.delete();
  output.delete();
  const total = scores.reduce((a, b) => a + b); // 1, or 255 for integers
  show(scores.map((s) => s / total), labels);
  status.textContent = `${time.toFixed(0)} ms`;
}

async function main() {
  const response = await fetch(MODEL);
  if (!response.ok) throw new Error(`There is no file ${MODEL} beside this page.`);
  const buffer = await response.arrayBuffer();
  await loadLiteRt(WASM);
  const model = await loadAndCompile(new Uint8Array(buffer), { accelerator: "wasm" });
  const labels = readLabels(buffer);
  const drop = document.getElementById("drop");
  const take = (file) => {
    const picture = new Image();
    picture.src = URL.createObjectURL(file);
    drop.querySelector("img, span").replaceWith(picture);
    classify(model, labels, file).catch(fail);
  };
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length) take(event.dataTransfer.files[0]);
  });
  document.getElementById("file").addEventListener("change", (event) => {
    if (event.target.files.length) take(event.target.files[0]);
  });
  status.textContent = "Ready.";
}

function fail(error) {
  status.textContent = error.message;
  throw error;
}

main().catch(fail);
