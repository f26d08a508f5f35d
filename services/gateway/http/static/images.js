// The images of a question: chosen, dropped or pasted.

const MOST_BYTES = 41943040; // of all together, as the gateway has it: it hangs up on who sends more
const THUMB = 256; // pixels

const input = document.getElementById("images");
const zone = document.getElementById("drop");
const list = document.getElementById("chosen");
const chosen = new Set();

export function watchImages(changed) {
  const add = (found) => {
    const files = [...found];
    if (files.length === 0) return;
    const images = files.filter((file) => file.type.startsWith("image/"));
    for (const file of images) {
      chosen.add(file);
      list.append(item(file, changed));
    }
    const others = files.filter((file) => !images.includes(file));
    changed([...images.map((file) => `${named(file)} added`), ...others.map((file) => `${named(file)} is no image`)].join(", "));
  };
  input.addEventListener("change", () => {
    add(input.files);
    input.value = ""; // they are listed below
  });
  document.addEventListener("paste", (event) => add(event.clipboardData?.files ?? []));
  // Anywhere on the page: what is dropped beside would be opened in its place.
  const files = (event) => event.dataTransfer?.types.includes("Files");
  for (const kind of ["dragenter", "dragover"]) {
    document.addEventListener(kind, (event) => {
      if (!files(event)) return;
      event.preventDefault();
      zone.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) zone.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    if (!files(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
}

// As a request has them.
export function encodedImages() {
  const size = [...chosen].reduce((sum, file) => sum + file.size, 0);
  if (size > MOST_BYTES) {
    throw new Error(`images: ${size.toLocaleString("en")} bytes in all, more than ${MOST_BYTES.toLocaleString("en")}`);
  }
  return Promise.all([...chosen].map(async (file) => ({ data: await base64(file) })));
}

function named(file) {
  return file.name || "image";
}

function item(file, changed) {
  const made = document.createElement("li");
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", named(file));
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Remove";
  button.setAttribute("aria-label", `Remove ${named(file)}`);
  button.addEventListener("click", () => {
    chosen.delete(file);
    made.remove();
    input.focus();
    changed(`${named(file)} removed`);
  });
  made.append(canvas, button);
  // On a canvas: an <img> would need URLs that the page's policy does not allow. A small one: a large image's
  // pixels take tens of megabytes.
  createImageBitmap(file).then(
    (bitmap) => {
      const scale = Math.min(1, THUMB / Math.max(bitmap.width, bitmap.height));
      canvas.width = Math.max(1, bitmap.width * scale);
      canvas.height = Math.max(1, bitmap.height * scale);
      canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
      bitmap.close();
    },
    () => canvas.replaceWith(`${named(file)} (cannot be shown)`),
  );
  return made;
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(new Error(`images: ${named(file)} cannot be read`));
    reader.readAsDataURL(file);
  });
}
