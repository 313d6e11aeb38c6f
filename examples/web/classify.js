// Classifies photographs with a file from `keras_nasnet.export_tflite`, in the
// browser: nothing is uploaded.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { readMetadata } from "./metadata.js";
import { toInput, toProbabilities } from "./numbers.js";

const MODEL = new URLSearchParams(location.search).get("model") ?? "model.tflite";
const WASM = "node_modules/@litertjs/core/wasm/";
const SMALL_IMAGE = 64; // Networks for larger ones see 7/8 of the image.
const status = document.getElementById("status");

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

async function classify(model, metadata, file) {
  const image = await createImageBitmap(file);
  const [{ shape, dtype }] = model.getInputDetails();
  const [, height, width] = shape;
  const pixels = readPixels(image, height, width);
  const values = toInput(pixels, dtype, metadata.normalization);
  const start = performance.now();
  const input = new Tensor(values, [...shape]);
  const outputs = await model.run(input);
  // Beside that of the classes there may be some of features.
  const place = model.getOutputDetails()
    .findIndex((output) => output.name === metadata.output.name);
  const scores = Array.from(outputs[place].toTypedArray());
  const time = performance.now() - start;
  input.delete();
  outputs.forEach((output) => output.delete());
  show(toProbabilities(scores, metadata.output), metadata.labels);
  status.textContent = `${time.toFixed(0)} ms`;
}

async function load() {
  const response = await fetch(MODEL);
  if (!response.ok) throw new Error(`There is no file ${MODEL} beside this page.`);
  const buffer = await response.arrayBuffer();
  const metadata = readMetadata(buffer);
  await loadLiteRt(WASM);
  const model = await loadAndCompile(new Uint8Array(buffer), { accelerator: "wasm" });
  const [batch] = model.getInputDetails()[0].shape;
  if (batch !== 1) {
    throw new Error(`${MODEL} takes ${batch} images at once. Write it with batch_size=1.`);
  }
  return [model, metadata];
}

function main() {
  const loading = load();
  loading.then(() => { status.textContent = "Ready."; }, fail);
  const drop = document.getElementById("drop");
  // Photographs may come before the network is there.
  const take = async (file) => {
    const picture = new Image();
    picture.src = URL.createObjectURL(file);
    drop.querySelector("img, span").replaceWith(picture);
    await classify(...await loading, file).catch(fail);
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
}

function fail(error) {
  document.getElementById("answers").replaceChildren(); // of another image
  status.textContent = error.message;
  throw error;
}

main();
